#!/bin/sh
# Make a work pool, its deployments and the automation on the server at PREFECT_API_URL; again: bring them up to date.
#   docs/deploy/set-up.sh process|docker|kubernetes
set -eu
cd "$(dirname "$0")/../.."
kind=${1:-}
case $kind in
    process)           pool=gpu ;;
    docker|kubernetes) pool=gpu-$kind ;;
    *) echo "usage: $0 process|docker|kubernetes" >&2; exit 2 ;;
esac
template=docs/deploy/$kind-pool.json

set -- --type "$kind" --overwrite
if [ -e "$template" ]; then set -- "$@" --base-job-template "$template"; fi
prefect --no-prompt work-pool create "$pool" "$@"
prefect --no-prompt deploy --name "$pool"
if ! prefect automation inspect 'cmrm zombies' >/dev/null 2>&1; then
    prefect automation create --from-file docs/deploy/zombies.yaml
fi
