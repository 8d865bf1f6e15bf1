/* An srun that was patched: what a user can make it send. Loaded by LD_PRELOAD, it changes the environment of the step at
 * the last moment, after srun has set it.
 *
 *   FORGE_NAME=VALUE     the step's environment has NAME=VALUE
 *   FORGED_LONG=NAME     the step's environment has NAME with a value of 1 MiB, which no execve(2) would take
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <slurm/slurm.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

static const char PREFIX[] = "FORGE_";
static const size_t LONG = 1 << 20;

static size_t name_length(const char *entry) { return strcspn(entry, "="); }

/* Puts an entry in the place of the one with its name, or behind all others. */
static void put(char **env, uint32_t *count, char *entry) {
  size_t length = name_length(entry) + 1;
  for (uint32_t i = 0; i < *count; i++) {
    if (strncmp(env[i], entry, length) == 0) {
      env[i] = entry;
      return;
    }
  }
  env[(*count)++] = entry;
}

int slurm_step_launch(slurm_step_ctx_t *context, const slurm_step_launch_params_t *params,
                      const slurm_step_launch_callbacks_t *callbacks) {
  int (*launch)(slurm_step_ctx_t *, const slurm_step_launch_params_t *, const slurm_step_launch_callbacks_t *) =
      dlsym(RTLD_NEXT, "slurm_step_launch");
  slurm_step_launch_params_t changed = *params;
  char **old = params->env ? params->env : environ;
  uint32_t count = 0, all = 0;
  while (old[count]) count++;
  while (environ[all]) all++;
  char **env = calloc(count + all + 2, sizeof *env);
  memcpy(env, old, count * sizeof *env);
  for (uint32_t i = 0; i < all; i++)
    if (strncmp(environ[i], PREFIX, sizeof PREFIX - 1) == 0) put(env, &count, environ[i] + sizeof PREFIX - 1);
  const char *name = getenv("FORGED_LONG");
  if (name) {
    size_t length = strlen(name);
    char *entry = malloc(length + LONG + 2);
    memcpy(entry, name, length);
    entry[length] = '=';
    memset(entry + length + 1, 'x', LONG);
    entry[length + 1 + LONG] = 0;
    put(env, &count, entry);
  }
  changed.env = env;
  changed.envc = count;
  return launch(context, &changed, callbacks);
}
