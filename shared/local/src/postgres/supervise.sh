# Supervises one PostgreSQL server: stops it and removes its data when no process uses it any more.
#
#   supervise.sh DATA USAGE_FILE POSTGRES [ARGUMENT…]
#
# USAGE_FILE empty: one owner holds this script's standard input open. When the owner ends, even by SIGKILL, the
# pipe closes and the server is stopped.
# USAGE_FILE a path: several processes share the server, and each touches the file every minute. The server is
# stopped when the file has not been touched for ten minutes or has been removed.
#
# If the server ends by itself, the supervisor ends too and keeps the data, so that the server can be restarted.

data=$1
usage_file=$2
shift 2

exec 3<&0
"$@" 3<&- </dev/null &
server=$!

wait_until_unused() {
    if [ -z "$usage_file" ]; then
        read -r _ <&3
    else
        while [ -f "$usage_file" ] && [ -z "$(find "$usage_file" -mmin +10)" ]; do sleep 2; done
    fi
}

( wait_until_unused; : >"$data/stopping"; kill -INT "$server" ) &
watcher=$!

wait "$server"
if [ -f "$data/stopping" ]; then
    # Removes the contents; the folder itself remains if this user cannot write to its parent.
    rm -rf "$data" 2>/dev/null
else
    kill "$watcher"
fi
