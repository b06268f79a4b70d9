package criu

// Explain finds the cause of a failure in lines of CRIU's log.
func Explain(log []string) (cause, advice string) { return "", "" }
