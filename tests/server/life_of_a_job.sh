#!/bin/sh
# Drives the whole life of a job with curl alone.
#
#   life_of_a_job.sh URL TOKEN TABLE
#
# URL ends with the server's base URL, as in http://127.0.0.1:3001/ ; TABLE is the path of a table below the root.
set -eu
URL=$1 TOKEN=$2 TABLE=$3

get()  { curl -sS --max-time 30 -H "Authorization: token $TOKEN" "$URL$1"; }
post() { curl -sS --max-time 30 -H "Authorization: token $TOKEN" -d "$2" "$URL$1"; }
code() { curl -sS --max-time 30 -o /dev/null -w '%{http_code}' "$@"; }

# field NAME: the first text or number of that name in the JSON on the standard input.
field() { sed -n 's/.*"'"$1"'":"\{0,1\}\([^",}]*\).*/\1/p' | head -n 1; }

expect() { # WHAT EXPECTED GOT
    [ "$2" = "$3" ] || { echo "$1: expected $2, got $3" >&2; exit 1; }
    echo "ok: $1 $3"
}

until_state() { # STATE...: wait until the job is in one of the states
    tries=0
    while :; do
        state=$(get "api/train/status?job_id=$JOB" | sed 's/.*"status":{//' | field status)
        for wanted in "$@"; do
            [ "$state" = "$wanted" ] && { echo "ok: state $state"; return; }
        done
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { echo "still $state, waited for $*" >&2; exit 1; }
        sleep 0.1
    done
}

expect "health"         true "$(curl -sS "${URL}health" | field ok)"
expect "without token"  403  "$(code "${URL}api/train/jobs")"
expect "no table"       422  "$(code -H "Authorization: token $TOKEN" -d '{"data": "missing.csv"}' "${URL}api/train")"

BODY="{\"data\": \"$TABLE\", \"target\": \"y\", \"epochs\": 1000000, \"name\": \"by curl\", \"idempotency_key\": \"$$-$TABLE\"}"
expect "train"          201  "$(code -H "Authorization: token $TOKEN" -d "$BODY" "${URL}api/train")"
JOB=$(post api/train "$BODY" | field job_id) # the same key: the same job
expect "count"          1    "$(get 'api/train/jobs' | field count)"
until_state RUNNING
tries=0
while [ "$(get "api/train/metrics?job_id=$JOB" | field next)" = 0 ]; do
    tries=$((tries + 1)); [ $tries -lt 300 ] || { echo "no metrics" >&2; exit 1; }; sleep 0.1
done
post api/train/pause "{\"job_id\": \"$JOB\"}" > /dev/null
until_state PAUSED
post api/train/set "{\"job_id\": \"$JOB\", \"params\": {\"lr\": 0.0005}}" > /dev/null
post api/train/resume "{\"job_id\": \"$JOB\"}" > /dev/null
until_state RUNNING
expect "delete it alive" 409 "$(code -X DELETE -H "Authorization: token $TOKEN" "${URL}api/train/jobs/$JOB")"
expect "events"         event "$(curl -sSN --max-time 2 -H "Authorization: token $TOKEN" \
    "${URL}api/train/events?job_id=$JOB" 2> /dev/null | sed -n 's/^\(event\): status.*/\1/p' | head -n 1)"
expect "stop"           true "$(post api/train/stop "{\"job_id\": \"$JOB\"}" | field ok)"
until_state STOPPED
expect "logs"           true "$(get "api/train/logs?job_id=$JOB&tail=5" | field ok)"
expect "listed as"      1    "$(get 'api/train/jobs?state=STOPPED' | field count)"
expect "delete"         true "$(curl -sS -X DELETE -H "Authorization: token $TOKEN" "${URL}api/train/jobs/$JOB" | field ok)"
expect "gone"           404  "$(code -H "Authorization: token $TOKEN" "${URL}api/train/status?job_id=$JOB")"
echo "the whole life of $JOB"
