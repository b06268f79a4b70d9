package source

import (
	"errors"
	"time"

	"migrate"
)

// errHurry ends the reading of a round when the time for pre-copy is up and
// the operator wants the move to go on.
var errHurry = errors.New("time for pre-copy is up")

// timeUp is called when --timeout is over: the move is cancelled, or goes on
// with the freeze, for which --freeze-timeout is enough.
func (v *move) timeUp() {
	if v.settings.now().TimeoutAction != migrate.TimeoutSuspend {
		v.cancel(errTimeout)
		return
	}
	v.suspend(errHurry)
	time.AfterFunc(v.opts.FreezeTimeout+undoTimeout, func() { v.cancel(errTimeout) }) // too late past the commit point
}
