#!/usr/bin/env bash
# What the README shows for four terminals, in one: three sites train a classifier on rows that stay with them.
# PORT and OPS_PORT may be set; SECFED_CACHE names the models and data that `make setup-demo` prepared.
set -euo pipefail
work=${1:-$(mktemp -d)/run}
port=${PORT:-18443}
ops_port=${OPS_PORT:-19443}
cache=${SECFED_CACHE:-$HOME/.cache/secfed}
sites=(hosp-a hosp-b hosp-c)
export OMP_NUM_THREADS=1  # three sites share this machine's cores

movies=$cache/data/movies.jsonl
[ -r "$movies" ] || { echo "error: $movies is not there; run \`make setup-demo\`" >&2; exit 2; }
umask 077
mkdir "$work"
cd "$work"
# One passphrase for all, only here: in earnest every key has its own, and nobody but its owner knows it.
head -c 24 /dev/urandom | base64 > passphrase
secret=(--passphrase-file passphrase)

echo "== data: every fourth sentence for each site, 400 of the rest are public"
for number in 0 1 2; do awk -v n="$number" 'NR % 4 == n' "$movies" > "${sites[number]}.jsonl"; done
awk 'NR % 4 == 3 && ++n % 6 == 0 && ++m <= 400' "$movies" > public.jsonl  # the file is sorted by rating

echo "== owner: the federation, its offline roster key, the aggregator's and an admin's keys"
secfed init federation --address "127.0.0.1:$port" --ops "127.0.0.1:$ops_port" "${secret[@]}"

echo "== each site: keys; the .pub goes to the owner, the fingerprint by phone"
for site in "${sites[@]}"; do secfed keys new "$site" --dir "$site" "${secret[@]}"; done

echo "== owner: enrol (--yes stands for the fingerprints compared by phone), then run the aggregator"
secfed enroll --dir federation --yes "${secret[@]}" hosp-a/hosp-a.pub hosp-b/hosp-b.pub hosp-c/hosp-c.pub
secfed aggregator run --config federation/aggregator.toml "${secret[@]}" > aggregator.log 2>&1 &
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT

echo "== each site: configuration, policy, ledger, a live signed round trip; then its client"
for site in "${sites[@]}"; do
    secfed client join "federation/invites/$site.invite" --key "$site/$site.key" --dir "$site" \
        --data "$site.jsonl" --unit record --public-n 2500 --epsilon 8 --models "$cache" "${secret[@]}"
    secfed client run --config "$site/client.toml" "${secret[@]}" > "$site/client.log" 2>&1 &
done

echo "== owner: a job"
secfed job init --template classify -o JOB.toml
secfed job start JOB.toml --config federation/admin.toml --models "$cache" "${secret[@]}"
echo "three rounds take some minutes; the logs are in $work"
while secfed status --config federation/admin.toml "${secret[@]}" > status.txt; grep -q running status.txt; do
    if [ "$(jobs -rp | wc -l)" -ne 4 ]; then tail -n 3 ./*.log ./*/client.log; exit 1; fi
    sleep 5
done
cat status.txt

echo "== at a site: what was spent, and the adapter"
grep '^round ' hosp-a/client.log
secfed report --config hosp-a/client.toml
secfed adapter fetch --job classify --config hosp-a/client.toml "${secret[@]}"
secfed eval --adapter classify-round-0003 --data public.jsonl --models "$cache"
echo "everything is in $work"
