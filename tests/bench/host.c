/* Runs a SPANK plugin's hooks as one process of Slurm's does, without Slurm, so that their instructions can be counted.
 *
 *   host PLUGIN CONFIG prolog|step|epilog|srun JOB [wants]
 *
 * What the plugin asks of Slurm is answered here: a job of nobody's on this node, with the option --gcp-wif if it wants
 * credentials. Loading the plugin is counted as well: each process of Slurm's that has hooks does it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
#include <slurm/spank.h>
#include <valgrind/callgrind.h>

enum { NOBODY = 65534 };

static spank_context_t context;
static uint32_t job;
static int wants;
static struct spank_option option;

/* A child's counts begin at its birth, not with those of its parent. */
pid_t fork(void)
{
	pid_t (*real)(void) = (pid_t (*)(void)) dlsym(RTLD_NEXT, "fork");
	pid_t pid = real();
	if (pid == 0)
		CALLGRIND_ZERO_STATS;
	return pid;
}

spank_context_t spank_context(void)
{
	return context;
}

spank_err_t spank_get_item(spank_t spank, spank_item_t item, ...)
{
	static char *environment[] = {"PATH=/usr/bin:/bin", "HOME=/nonexistent", "SLURM_JOB_USER=nobody", NULL};
	static gid_t groups[] = {NOBODY};
	spank_err_t result = ESPANK_SUCCESS;
	va_list places;
	(void) spank;
	va_start(places, item);
	switch (item) {
	case S_JOB_UID:
		*va_arg(places, uid_t *) = NOBODY;
		break;
	case S_JOB_GID:
		*va_arg(places, gid_t *) = NOBODY;
		break;
	case S_JOB_ID:
		*va_arg(places, uint32_t *) = job;
		break;
	case S_JOB_STEPID:
		*va_arg(places, uint32_t *) = 0;
		break;
	case S_JOB_ENV:
		*va_arg(places, char ***) = environment;
		break;
	case S_JOB_SUPPLEMENTARY_GIDS:
		*va_arg(places, gid_t **) = groups;
		*va_arg(places, int *) = 1;
		break;
	default:
		result = ESPANK_NOT_AVAIL;
	}
	va_end(places);
	return result;
}

spank_err_t spank_option_register(spank_t spank, struct spank_option *registered)
{
	(void) spank;
	if (strcmp(registered->name, "gcp-wif") == 0)
		option = *registered;
	return ESPANK_SUCCESS;
}

spank_err_t spank_option_getopt(spank_t spank, struct spank_option *asked, char **value)
{
	(void) spank;
	if (value)
		*value = NULL;
	return wants && strcmp(asked->name, "gcp-wif") == 0 ? ESPANK_SUCCESS : ESPANK_ERROR;
}

spank_err_t spank_getenv(spank_t spank, const char *name, char *value, int length)
{
	(void) spank, (void) name, (void) value, (void) length;
	return ESPANK_ENV_NOEXIST;
}

spank_err_t spank_setenv(spank_t spank, const char *name, const char *value, int overwrite)
{
	(void) spank, (void) name, (void) value, (void) overwrite;
	return ESPANK_SUCCESS;
}

spank_err_t spank_unsetenv(spank_t spank, const char *name)
{
	(void) spank, (void) name;
	return ESPANK_SUCCESS;
}

spank_err_t spank_job_control_unsetenv(spank_t spank, const char *name)
{
	(void) spank, (void) name;
	return ESPANK_SUCCESS;
}

const char *spank_strerror(spank_err_t error)
{
	(void) error;
	return "refused";
}

#define LOG(name)                                                                                                      \
	void name(const char *format, ...)                                                                             \
	{                                                                                                              \
		va_list values;                                                                                        \
		va_start(values, format);                                                                              \
		vfprintf(stderr, format, values);                                                                      \
		fputc('\n', stderr);                                                                                   \
		va_end(values);                                                                                        \
	}

LOG(slurm_info)
LOG(slurm_error)
LOG(slurm_spank_log)

static void call(void *plugin, const char *hook, char *argument)
{
	char *arguments[] = {argument, NULL};
	int (*run)(spank_t, int, char **) = (int (*)(spank_t, int, char **)) dlsym(plugin, hook);
	if (!run || run((spank_t) &job, 1, arguments) != ESPANK_SUCCESS) {
		fprintf(stderr, "%s failed\n", hook);
		exit(1);
	}
}

int main(int count, char **arguments)
{
	static const char *const prolog[] = {"slurm_spank_job_prolog", NULL};
	static const char *const epilog[] = {"slurm_spank_job_epilog", NULL};
	static const char *const step[] = {"slurm_spank_init_post_opt", "slurm_spank_user_init",
		"slurm_spank_task_init_privileged", "slurm_spank_task_init", "slurm_spank_task_post_fork",
		"slurm_spank_task_exit", "slurm_spank_exit", NULL};
	static const char *const command[] = {
		"slurm_spank_init_post_opt", "slurm_spank_local_user_init", "slurm_spank_exit", NULL};
	const char *const *hooks = prolog;
	if (count < 5)
		return 2;
	context = S_CTX_JOB_SCRIPT;
	if (strcmp(arguments[3], "epilog") == 0)
		hooks = epilog;
	if (strcmp(arguments[3], "step") == 0) {
		hooks = step;
		context = S_CTX_REMOTE;
	}
	if (strcmp(arguments[3], "srun") == 0) {
		hooks = command;
		context = S_CTX_LOCAL;
	}
	job = (uint32_t) atoi(arguments[4]);
	wants = count > 5;

	char argument[4096];
	snprintf(argument, sizeof argument, "config=%s", arguments[2]);
	/* As Slurm does it (plugin_load_from_file). */
	void *plugin = dlopen(arguments[1], RTLD_LAZY);
	if (!plugin) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	if (context != S_CTX_JOB_SCRIPT) {
		call(plugin, "slurm_spank_init", argument);
		if (wants && option.cb)
			option.cb(option.val, NULL, context == S_CTX_REMOTE);
	}
	for (; *hooks; hooks++)
		call(plugin, *hooks, argument);
	return 0;
}
