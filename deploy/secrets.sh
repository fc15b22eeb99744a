#!/bin/sh
# Make the secrets that a server is started with, each a file of deploy/secrets, or of the directory that is named: for
# compose.yaml, and for systemd in /etc/everref/secrets. A file that is there stays; a value that the environment has is
# taken from it (DATABASE_URL, REDIS_URL, SECRET_KEYS, POSTGRES_PASSWORD, METRICS_TOKEN, GITHUB_CLIENT_SECRET,
# GITLAB_CLIENT_SECRET, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY). REDIS_HOST is where Redis is with the password that is
# made here, which redis_conf has; it has that of REDIS_URL where that is given. Keep a copy of secret_keys elsewhere: see docs/operations.md.
set -eu
umask 077
place=${1:-$(dirname "$0")/secrets}
mkdir -p "$place"
cd "$place"
chmod 700 . # the files themselves are read by a container's user, whose number is nobody's here

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

# keep NAME VALUE: a file with this value, unless there is one of this name.
keep() {
  [ ! -e "$1" ] || return 0
  printf '%s\n' "$2" > "$1.new"
  chmod 444 "$1.new"
  mv "$1.new" "$1"
}

case ${POSTGRES_PASSWORD:-} in
*[!A-Za-z0-9._~-]*)
  echo "secrets.sh: POSTGRES_PASSWORD may have letters, digits and ._~- only, as it becomes part of an address" >&2
  exit 2
  ;;
esac
keep secret_keys "${SECRET_KEYS:-$(random)}"
keep postgres_password "${POSTGRES_PASSWORD:-$(random)}"
keep database_url "${DATABASE_URL:-postgresql://everref:$(cat postgres_password)@postgres/everref}"
redis_password=$(printf '%s\n' "${REDIS_URL:-}" | sed -n 's,^redis://[^:@/]*:\([A-Za-z0-9._~-]*\)@.*,\1,p')
keep redis_conf "requirepass ${redis_password:-$(random)}
save \"\"
appendonly no
maxmemory 384mb
maxmemory-policy noeviction"
keep redis_url "${REDIS_URL:-redis://:$(sed -n 's/^requirepass //p' redis_conf)@${REDIS_HOST:-redis}}"
keep metrics_token "${METRICS_TOKEN:-}"
keep github_client_secret "${GITHUB_CLIENT_SECRET:-}"
keep gitlab_client_secret "${GITLAB_CLIENT_SECRET:-}"
keep aws_credentials "${AWS_ACCESS_KEY_ID:+[default]
aws_access_key_id = $AWS_ACCESS_KEY_ID
aws_secret_access_key = ${AWS_SECRET_ACCESS_KEY:-}}"
