#!/bin/sh
# What operators run today to get an access token: two requests of curl's, by hand. Only where Google is comes from
# outside: AUDIENCE, SERVICE_ACCOUNT, TOKEN_PATH, STS, IAM; and CURL_CA_BUNDLE, which curl reads itself.
set -eu

K8S_TOKEN=$(cat "$TOKEN_PATH")

# Step 1: STS exchange, Kubernetes JWT -> federated token
FED_TOKEN=$(curl -fsS -X POST "$STS/v1/token" \
  -H "Content-Type: application/json" \
  -d "{
    \"grant_type\": \"urn:ietf:params:oauth:grant-type:token-exchange\",
    \"audience\": \"$AUDIENCE\",
    \"scope\": \"https://www.googleapis.com/auth/cloud-platform\",
    \"requested_token_type\": \"urn:ietf:params:oauth:token-type:access_token\",
    \"subject_token_type\": \"urn:ietf:params:oauth:token-type:jwt\",
    \"subject_token\": \"$K8S_TOKEN\"
  }" | sed -n 's/.*"access_token" *: *"\([^"]*\)".*/\1/p')

[ -n "$FED_TOKEN" ] || { echo "STS exchange returned no access_token" >&2; exit 1; }

# Step 2: service account impersonation -> access token
SA_TOKEN=$(curl -fsS -X POST \
  "$IAM/v1/projects/-/serviceAccounts/$SERVICE_ACCOUNT:generateAccessToken" \
  -H "Authorization: Bearer $FED_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"scope":["https://www.googleapis.com/auth/cloud-platform"],"lifetime":"3600s"}' \
  | sed -n 's/.*"accessToken" *: *"\([^"]*\)".*/\1/p')

[ -n "$SA_TOKEN" ] || { echo "SA impersonation returned no accessToken" >&2; exit 1; }

printf '%s' "$SA_TOKEN"
