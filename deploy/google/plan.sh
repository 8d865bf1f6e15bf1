# What exists at Google, what is missing, and what the nodes need. setup sources this file, and shares its variables.
# Long messages continue on the next line, where a word begins with a quote.
# shellcheck shell=bash disable=SC2034,SC2140,SC2154

# Asks Google in the background: look NAME COMMAND... The caller waits for all answers of a round together.
look() {
  { "${@:2}" >"$round/$1" 2>"$round/$1.error" || : >"$round/$1.failed"; } &
}

# Whether the thing that `look` asked for exists. An answer that does not tell ends the script.
found() {
  [[ -e $round/$1.failed ]] || return 0
  grep -qE "$absent|$disabled" "$round/$1.error" || fail "cannot look at the $2: $(squash "$round/$1.error")"
  return 1
}

step() {
  titles+=("$1")
  commands+=("$(printf '%q ' "${@:2}")")
}

# Whether a policy that `look` fetched has a role for a member, without a condition.
has() {
  grep -qxF "$2 $3 " "$round/$1"
}

pools=(gcloud iam workload-identity-pools)
within=(--location=global --project="$project")
of_pool=(--workload-identity-pool="$pool" "${within[@]}")
policy=(--flatten='bindings[].members'
  --format='value[separator=" "](bindings.role,bindings.members,bindings.condition.expression)')
# Leaves conditional bindings in the same policy alone.
quiet=(--condition=None --format=none)

email() {
  echo "$1@$project.iam.gserviceaccount.com"
}

principal() {
  echo "principal://iam.googleapis.com/projects/$number/locations/global/workloadIdentityPools/$pool/subject/$1"
}

role_of() {
  local role=${1#*:}
  [[ $1 == *:* ]] || role=objectViewer
  echo "roles/storage.$role"
}

look_at_provider() {
  local fields='state,disabled,description,oidc.issuerUri,oidc.allowedAudiences.list(separator=" "),attributeCondition'
  # The keys come last, because they have several lines.
  fields+=',attributeMapping.list(separator=" "),oidc.jwksJson'
  look provider "${pools[@]}" providers describe "$provider" "${of_pool[@]}" --format="value[separator='\n']($fields)"
}

ask_google() {
  local account bucket repository
  [[ -n $remove ]] || look services gcloud services list --enabled --project="$project" --format='value(config.name)'
  look pool "${pools[@]}" describe "$pool" "${within[@]}" --format='value[separator="\n"](state,disabled,description)'
  look_at_provider
  [[ -z $remove ]] || look providers "${pools[@]}" providers list "${of_pool[@]}" --format='value(name.basename())'
  for account in "${accounts[@]}"; do
    local of_account=("$(email "$account")" --project="$project")
    look "policy-$account" gcloud iam service-accounts get-iam-policy "${of_account[@]}" "${policy[@]}"
    [[ -z $remove ]] ||
      look "account-$account" gcloud iam service-accounts describe "${of_account[@]}" --format='value(description)'
  done
  for bucket in "${buckets[@]}"; do
    look "bucket-$bucket" gcloud storage buckets get-iam-policy "gs://${bucket%:*}" "${policy[@]}"
  done
  for repository in "${repositories[@]}"; do
    local where=("${repository#*/}" --location="${repository%/*}" --project="$project")
    look "repository-${repository/\//-}" gcloud artifacts repositories get-iam-policy "${where[@]}" "${policy[@]}"
    [[ -n $remove ]] || continue
    look "made-${repository/\//-}" gcloud artifacts repositories describe "${where[@]}" --format='value(description)'
    look "packages-${repository/\//-}" gcloud artifacts packages list --repository="${where[0]}" "${where[@]:1}" \
      --limit=1 --format='value(name)'
  done
  [[ -z $service_usage ]] || look usage gcloud projects get-iam-policy "$project" "${policy[@]}"
  wait
}

# Fills titles, commands and notes. Sets `again` if more must be planned when these are done.
make_plan() {
  titles=() commands=() notes=() again=''
  round=$work/round
  mkdir "$round"
  # Asked first and alone, so that a missing login causes only one error.
  number=$(gcloud projects describe "$project" --format='value(projectNumber)' 2>"$work/error") ||
    fail "cannot look at project $project: $(squash "$work/error")"
  [[ $number =~ ^[0-9]+$ ]] || fail "project $project has no number in Google's answer ($number)"
  ask_google
  # The members that get the roles: the service accounts, or the subjects themselves.
  members=()
  local one
  for one in "${accounts[@]}"; do members+=("serviceAccount:$(email "$one")"); done
  [[ -z $direct ]] || for one in "${subjects[@]}"; do members+=("$(principal "$one")"); done
  if [[ -n $remove ]]; then
    plan_removal
  else
    plan_services
    plan_pool
    plan_accounts
    plan_roles
  fi
}

plan_services() {
  local service missing=() wanted=(iam.googleapis.com iamcredentials.googleapis.com sts.googleapis.com)
  ((${#buckets[@]} == 0)) || wanted+=(storage.googleapis.com)
  ((${#repositories[@]} == 0)) || wanted+=(artifactregistry.googleapis.com)
  found services "APIs of project $project" ||
    fail "cannot look at the APIs of project $project: $(squash "$round/services.error")"
  for service in "${wanted[@]}"; do
    grep -qxF "$service" "$round/services" || missing+=("$service")
  done
  ((${#missing[@]} == 0)) || step "enable ${missing[*]}" gcloud services enable "${missing[@]}" --project="$project"
}

plan_pool() {
  local there=()
  ! found pool "pool $pool" || mapfile -t there <"$round/pool"
  [[ ${there[1]-} != True ]] ||
    fail "the pool $pool is disabled. If that is not intended, run: ${pools[*]} update $pool ${within[*]} --no-disabled"
  case ${there[0]-} in
    '')
      step "create the pool $pool" "${pools[@]}" create "$pool" "${within[@]}" --display-name="Slurm nodes" \
        --description="$mark"
      ;;
    DELETED)
      step "restore the pool $pool" "${pools[@]}" undelete "$pool" "${within[@]}"
      again=yes
      notes+=("The pool $pool was removed less than 30 days ago. Its provider is visible only when the pool is"\
" restored. It is restored, updated or created then.")
      return
      ;;
  esac
  plan_provider
}

# Plans the provider after the pool has been restored.
plan_provider_again() {
  titles=() commands=()
  rm -f "$round"/provider*
  look_at_provider
  wait
  plan_provider
}

plan_provider() {
  local there=() has_provider=yes
  found provider "provider $provider" || has_provider=
  local wanted=(--issuer-uri="$issuer" --attribute-mapping=google.subject=assertion.sub)
  ((${#audiences[@]} == 0)) || wanted+=(--allowed-audiences="$(IFS=,; echo "${audiences[*]}")")
  [[ -z $condition ]] || wanted+=(--attribute-condition="$condition")
  [[ -z $jwks ]] || wanted+=(--jwk-json-path="$jwks")
  if [[ -z $has_provider ]]; then
    step "create the provider $provider, which trusts $issuer" "${pools[@]}" providers create-oidc "$provider" \
      "${of_pool[@]}" --display-name="Slurm cluster" --description="$mark" "${wanted[@]}"
    return
  fi
  mapfile -t there <"$round/provider"
  if [[ ${there[0]} == DELETED ]]; then
    step "restore the provider $provider" "${pools[@]}" providers undelete "$provider" "${of_pool[@]}"
  fi
  [[ ${there[1]} != True ]] ||
    fail "the provider $provider is disabled. If that is not intended, run: ${pools[*]} providers update-oidc $provider ${of_pool[*]} --no-disabled"
  local changed=()
  [[ ${there[3]} == "$issuer" ]] || changed+=("${wanted[0]}")
  [[ ${there[4]} == "${audiences[*]}" ]] || changed+=(--allowed-audiences="$(IFS=,; echo "${audiences[*]}")")
  [[ ${there[5]} == "$condition" ]] || changed+=(--attribute-condition="$condition")
  [[ ${there[6]} == google.subject=assertion.sub ]] || changed+=("${wanted[1]}")
  [[ $(printf %s "${there[@]:7}" | tr -d '[:space:]') == "$keys" ]] || changed+=(--jwk-json-path="$jwks")
  ((${#changed[@]})) || return 0
  [[ ${there[2]} == "$mark"* ]] ||
    fail "a provider $provider exists that this script did not create, with other settings (${changed[*]%%=*})."\
" Choose another --provider or --pool"
  [[ -n $jwks || ${changed[*]} != *--jwk-json-path=* ]] ||
    fail "the provider $provider has uploaded keys, which gcloud cannot remove. Use --jwks, or choose another --provider"
  step "update the provider $provider" "${pools[@]}" providers update-oidc "$provider" "${of_pool[@]}" "${changed[@]}"
}

plan_accounts() {
  local account subject
  for account in "${accounts[@]}"; do
    if ! found "policy-$account" "service account $account"; then
      step "create the service account $account" gcloud iam service-accounts create "$account" --project="$project" \
        --display-name="Slurm jobs" --description="$mark"
    fi
    for subject in "${subjects[@]}"; do
      has "policy-$account" roles/iam.workloadIdentityUser "$(principal "$subject")" ||
        step "let $subject impersonate $account" \
          gcloud iam service-accounts add-iam-policy-binding "$(email "$account")" --project="$project" \
          --role=roles/iam.workloadIdentityUser --member="$(principal "$subject")" "${quiet[@]}"
    done
  done
}

# Prints a member in short form, for messages.
short() {
  local name=${1#serviceAccount:}
  echo "${name##*/subject/}"
}

# Plans to grant a role to each member that lacks it, or to revoke it: grant POLICY ROLE WHERE COMMAND...
grant() {
  local member
  for member in "${members[@]}"; do
    if [[ -z $remove ]]; then
      has "$1" "$2" "$member" ||
        step "grant $2 on $3 to $(short "$member")" "${@:4}" --role="$2" --member="$member" "${quiet[@]}"
    elif has "$1" "$2" "$member"; then
      step "revoke $2 on $3 from $(short "$member")" "${@:4}" --role="$2" --member="$member" "${quiet[@]}"
    fi
  done
}

plan_roles() {
  local one name where verb=add-iam-policy-binding
  [[ -z $remove ]] || verb='remove-iam-policy-binding'
  for one in "${buckets[@]}"; do
    name=gs://${one%:*}
    found "bucket-$one" "bucket $name" || [[ -n $remove ]] || grep -qE "$disabled" "$round/bucket-$one.error" ||
      fail "the bucket $name does not exist. Create it (gcloud storage buckets create $name --project=$project"\
" --location=...), or correct --bucket"
    grant "bucket-$one" "$(role_of "$one")" "$name" gcloud storage buckets "$verb" "$name"
  done
  for one in "${repositories[@]}"; do
    name=repository-${one/\//-}
    where=("${one#*/}" --location="${one%/*}" --project="$project")
    if ! found "$name" "repository $one" && [[ -z $remove ]]; then
      step "create the repository $one" gcloud artifacts repositories create "${where[@]}" \
        --repository-format=docker --description="$mark"
    fi
    grant "$name" roles/artifactregistry.reader "$one" gcloud artifacts repositories "$verb" "${where[@]}"
  done
  [[ -z $service_usage ]] ||
    grant usage roles/serviceusage.serviceUsageConsumer "project $project" gcloud projects "$verb" "$project"
}

# Whether the description that `look` fetched shows that this script created the thing.
made() {
  found "$1" "$2" && [[ $(<"$round/$1") == "$mark"* ]]
}

# Plans to remove what this script created. What others use or created stays, and the notes say so.
plan_removal() {
  local one subject account all=("${members[@]}") doomed=() others there
  members=()
  [[ -z $direct ]] || members=("${all[@]}")
  for account in "${accounts[@]}"; do
    found "policy-$account" "service account $account" || continue
    others=$(grep -c . "$round/policy-$account" || :)
    for subject in "${subjects[@]}"; do
      ! has "policy-$account" roles/iam.workloadIdentityUser "$(principal "$subject")" || others=$((others - 1))
    done
    if ! made "account-$account" "service account $account"; then
      notes+=("The service account $account stays, with its roles on buckets, repositories and project: this script did"\
" not create it.")
    elif ((others > 0)); then
      notes+=("The service account $account stays, with its roles: others may use it"\
" (gcloud iam service-accounts get-iam-policy $(email "$account")).")
    else
      doomed+=("$account")
      members+=("serviceAccount:$(email "$account")")
      continue
    fi
    for subject in "${subjects[@]}"; do
      ! has "policy-$account" roles/iam.workloadIdentityUser "$(principal "$subject")" ||
        step "stop $subject from impersonating $account" gcloud iam service-accounts remove-iam-policy-binding \
          "$(email "$account")" --project="$project" --role=roles/iam.workloadIdentityUser \
          --member="$(principal "$subject")" "${quiet[@]}"
    done
  done
  plan_roles
  for account in "${doomed[@]}"; do
    step "remove the service account $account" gcloud iam service-accounts delete "$(email "$account")" \
      --project="$project"
  done
  for one in "${repositories[@]}"; do
    found "repository-${one/\//-}" "repository $one" || continue
    if ! made "made-${one/\//-}" "repository $one"; then
      notes+=("The repository $one stays: this script did not create it.")
    elif found "packages-${one/\//-}" "images of $one" && [[ -s $round/packages-${one/\//-} ]]; then
      notes+=("The repository $one stays: it has images.")
    else
      step "remove the repository $one, which is empty" gcloud artifacts repositories delete "${one#*/}" \
        --location="${one%/*}" --project="$project"
    fi
  done
  found pool "pool $pool" && [[ $(head -n 1 "$round/pool") != DELETED ]] || return 0
  local left
  left=$(grep -vxF "$provider" "$round/providers" || :)
  if found provider "provider $provider" && [[ $(head -n 1 "$round/provider") != DELETED ]]; then
    mapfile -t there <"$round/provider"
    if [[ ${there[2]} == "$mark"* ]]; then
      step "remove the provider $provider" "${pools[@]}" providers delete "$provider" "${of_pool[@]}"
    else
      notes+=("The provider $provider stays: this script did not create it.")
      left=$provider
    fi
  fi
  mapfile -t there <"$round/pool"
  if [[ ${there[2]} != "$mark"* ]]; then
    notes+=("The pool $pool stays: this script did not create it.")
  elif [[ -n $left ]]; then
    notes+=("The pool $pool stays: it has other providers (${left//$'\n'/, }).")
  else
    step "remove the pool $pool" "${pools[@]}" delete "$pool" "${within[@]}"
  fi
}

# Writes a file to --output, only if its content changes.
write() {
  if [[ -e $output/$1 ]] && cmp -s "$work/$1" "$output/$1"; then
    echo "$output/$1 is up to date."
  else
    # Not mv, because the file must have the mode of a new file, not that of a temporary one.
    cat "$work/$1" >"$output/.$1.new" && mv "$output/.$1.new" "$output/$1"
    echo "$output/$1 was written."
  fi
}

# Writes the credential configuration, as gcloud writes it, and a matching site configuration.
write_files() {
  local options=() account rest='' audience
  local name=projects/$number/locations/global/workloadIdentityPools/$pool/providers/$provider
  [[ -n $direct ]] || options+=(--service-account="$(email "${accounts[0]}")")
  [[ -z $lifetime ]] || options+=(--service-account-token-lifetime-seconds="$lifetime")
  "${pools[@]}" create-cred-config "$name" "${options[@]}" --credential-source-file="$source_file" \
    --output-file="$work/made.json" >/dev/null 2>"$work/error" ||
    fail "gcloud cannot write the credential configuration: $(squash "$work/error")"
  # Older releases of gcloud have no --sts-location; newer ones write the same URL.
  local host=sts${sts_location:+.$sts_location.rep}.googleapis.com
  sed "s|\"https://sts.googleapis.com/v1/token\"|\"https://$host/v1/token\"|" "$work/made.json" \
    >"$work/credential-configuration.json"
  for account in "${accounts[@]:1}"; do
    rest+="${rest:+, }\"$(email "$account")\""
  done
  {
    printf '{\n  "credential_configuration": "/etc/slurm/credential-configuration.json",\n  "project": "%s"' "$project"
    [[ -z $rest ]] ||
      printf ',\n  "rules": [\n    {"service_account": "%s", "allow": [%s]}\n  ]' "$(email "${accounts[0]}")" "$rest"
    printf '\n}\n'
  } >"$work/gcp-wif.json"
  write credential-configuration.json
  write gcp-wif.json
  audience=${audiences[0]-https://iam.googleapis.com/$name}
  cat <<END

The audience of the nodes' projected token:
  $audience
Next: project the token to $source_file on the nodes, copy both files to /etc/slurm there (owner root, mode 0644),
and run on a node: gcp-wif doctor
A new role can take up to five minutes to take effect.
END
}
