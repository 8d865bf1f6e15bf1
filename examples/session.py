# Lines to type in a session that stays open for hours: an interactive Python, IPython, or a notebook kernel.
#
#   srun --gcp-wif --pty python3 -i -q
#
# A kernel that Jupyter starts inside the job also has the job's credentials. No line here deals with credentials, and the
# last line works for as long as the job runs. It needs gcsfs.
import gcsfs
system = gcsfs.GCSFileSystem(token="google_default", use_listings_cache=False)
print(system.ls("my-bucket"))
