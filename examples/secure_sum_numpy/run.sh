#!/usr/bin/env bash
# Three sites push a vector each, by the same commands as by hand; PORT and OPS_PORT may be set.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-$(mktemp -d)/run}
port=${PORT:-18443}
ops_port=${OPS_PORT:-19443}
sites=(hosp-a hosp-b hosp-c)

umask 077
mkdir "$work"
cd "$work"
# One passphrase for all, only here: in earnest every key has its own, and nobody but its owner knows it.
head -c 24 /dev/urandom | base64 > passphrase
secret=(--passphrase-file passphrase)

echo "== owner: the federation, its offline roster key, the aggregator's keys and an admin's"
secfed init federation --address "127.0.0.1:$port" --ops "127.0.0.1:$ops_port" "${secret[@]}"

echo "== each site: keys"
for site in "${sites[@]}"; do secfed keys new "$site" --dir "$site" "${secret[@]}"; done

echo "== owner: enrol (--yes stands for the fingerprints compared by phone), then run the aggregator"
secfed enroll --dir federation --yes "${secret[@]}" hosp-*/hosp-*.pub
secfed aggregator run --config federation/aggregator.toml "${secret[@]}" > aggregator.log 2>&1 &
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT

echo "== each site: join, and make an update"
for site in "${sites[@]}"; do
    secfed client join "federation/invites/$site.invite" --key "$site/$site.key" --dir "$site" \
        --allow-non-private "${secret[@]}"
    python "$here/regression.py" make "$site" "$site/update.safetensors"
done

echo "== admin: start the job; each site: push"
secfed job start "$here/JOB.toml" --config federation/admin.toml "${secret[@]}"
pushes=()
for site in "${sites[@]}"; do
    secfed client push --update "$site/update.safetensors" --config "$site/client.toml" "${secret[@]}" \
        > "$site/push.log" 2>&1 &
    pushes+=($!)
done
for push in "${pushes[@]}"; do wait "$push" || { tail -n 3 ./*/push.log aggregator.log; exit 1; }; done

echo "== any site: fetch the sum, whose manifest the aggregator signed, and solve"
secfed adapter fetch --job pooled-regression --config hosp-a/client.toml --output result "${secret[@]}"
python "$here/regression.py" check result "${sites[@]}"
secfed status --config federation/admin.toml "${secret[@]}" | tail -n 1
echo "everything is in $work"
