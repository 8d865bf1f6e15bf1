# Lists a bucket with the credentials that gargle finds, until a file appears.

arguments <- commandArgs(trailingOnly = TRUE)
url <- paste0(arguments[1], "/storage/v1/b/", arguments[2], "/o")
# The job has GCE_METADATA_IP, and not the host's name that gargle asks otherwise. The timeout is for a busy machine.
options(gargle.gce.use_ip = TRUE, gargle.gce.timeout = 10)
scope <- "https://www.googleapis.com/auth/cloud-platform"
token <- gargle::token_fetch(scopes = scope)
if (is.null(token)) stop("no token")
while (!file.exists(arguments[3])) {
  # httr would do so after the first 401.
  token$refresh()
  answer <- httr::GET(url, httr::config(token = token))
  httr::stop_for_status(answer)
  stopifnot(length(httr::content(answer)$items) > 0)
  Sys.sleep(0.2)
}
cat(class(token)[1], "\n", sep = "")
