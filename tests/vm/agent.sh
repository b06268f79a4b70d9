# Starts a migrate agent, with the arguments that this is given, in the place of
# one that runs, and waits until it is ready: it tells NOTIFY_SOCKET so, as it
# would tell systemd.
pid=/run/migrate-agent.pid log=/var/log/migrate-agent.log
n=/run/migrate-agent.sock said=/run/migrate-agent.said
if old=$(cat $pid 2>/dev/null) && kill "$old" 2>/dev/null; then
	while kill -0 "$old" 2>/dev/null; do sleep 0.05; done
fi
rm -f $n $said
socat -u UNIX-RECV:$n CREATE:$said & waiter=$!
until [ -S $n ]; do sleep 0.02; done
NOTIFY_SOCKET=$n setsid migrate agent "$@" >>$log 2>&1 </dev/null & agent=$!
echo $agent >$pid
until grep -q READY=1 $said 2>/dev/null; do
	kill -0 $agent 2>/dev/null || { kill $waiter; tail $log >&2; exit 1; }
	sleep 0.05
done
kill $waiter
