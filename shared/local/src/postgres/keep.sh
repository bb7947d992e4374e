# Keeps one PostgreSQL server for as long as somebody needs it, then stops it and removes its data.
#
#   keep.sh DATA USED POSTGRES [ARGUMENT…]
#
# USED empty: the owner holds our standard input open; when it goes, by whatever death, the pipe closes.
# USED a file: many processes share the server and touch that file each minute while they live; ten quiet
# minutes, or the file's removal, mean that nobody is left.
#
# A server that ends by itself ends the keeper too, and its data stays, so that it can be started again.

data=$1
used=$2
shift 2

exec 3<&0
"$@" 3<&- </dev/null &
server=$!

nobody_left() {
    if [ -z "$used" ]; then
        read -r _ <&3
    else
        while [ -f "$used" ] && [ -z "$(find "$used" -mmin +10)" ]; do sleep 2; done
    fi
}

( nobody_left; : >"$data/nobody-left"; kill -INT "$server" ) &
watch=$!

wait "$server"
if [ -f "$data/nobody-left" ]; then
    # The folder itself stays where its parent is not ours to change.
    rm -rf "$data" 2>/dev/null
else
    kill "$watch"
fi
