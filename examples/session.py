# What one types in a session that stays open for hours: an interactive Python, IPython, or the kernel of a notebook.
#
#   srun --gcp-wif --pty python3 -i -q
#
# A kernel that Jupyter starts inside of the job has the job's credentials as well. No line here has to do with them, and
# the last one works in the evening as it did in the morning. It needs gcsfs.
import gcsfs
system = gcsfs.GCSFileSystem(token="google_default", use_listings_cache=False)
print(system.ls("my-bucket"))
