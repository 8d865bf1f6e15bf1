/* A SPANK plugin that does nothing: what Slurm itself takes for a plugin with these hooks. They are those that
 * spank_gcp_wif.so exports; idle.rs compares the names. */
#include <slurm/spank.h>

SPANK_PLUGIN(empty, 1);

#define HOOK(name)                                                                                                     \
	int name(spank_t spank, int count, char **arguments)                                                           \
	{                                                                                                              \
		(void) spank, (void) count, (void) arguments;                                                          \
		return ESPANK_SUCCESS;                                                                                 \
	}

HOOK(slurm_spank_init)
HOOK(slurm_spank_job_prolog)
HOOK(slurm_spank_init_post_opt)
HOOK(slurm_spank_local_user_init)
HOOK(slurm_spank_user_init)
HOOK(slurm_spank_task_init_privileged)
HOOK(slurm_spank_task_init)
HOOK(slurm_spank_task_post_fork)
HOOK(slurm_spank_task_exit)
HOOK(slurm_spank_job_epilog)
HOOK(slurm_spank_slurmd_exit)
HOOK(slurm_spank_exit)
