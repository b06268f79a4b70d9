package supervisor

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/tinyinit"
	"migrate/workload"
	"migrate/workload/cgroup"
)

// run starts a capsule. If that fails, nothing is left and the supervisor ends.
func (s *server) run(spec RunSpec) (Status, error) {
	s.ops.Lock()
	defer s.ops.Unlock()
	if st := s.snapshot(); st.State != Idle {
		return st, refusal(st, "cannot start a program")
	}
	if err := s.startCapsule(spec); err != nil {
		s.removeEmptyDir()
		s.over(Discarded)
		return s.snapshot(), fmt.Errorf("starting %s: %w", strings.Join(spec.Argv, " "), err)
	}
	return s.snapshot(), nil
}

func (s *server) startCapsule(spec RunSpec) (err error) {
	argv, initPath, err := s.commandLine(spec)
	if err != nil {
		return err
	}
	group, err := workloadGroup(s.cfg.name)
	if err != nil {
		return err
	}
	stdio := newStdio(workload.RecordDir(s.cfg.stateDir, s.cfg.name), spec.LogLimit, s.log)
	defer func() {
		if err != nil {
			stdio.close()
			err = errors.Join(err, group.Remove())
		}
	}()
	files, err := guestFiles(spec, stdio)
	if err != nil {
		return err
	}
	if !spec.TTY { // the terminal's slave stays ours
		defer closeAll(files)
	}
	pid, root, err := s.reaper.start(func() (int, error) { return launch(spec, argv, files, group) })
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.group = group
	s.mu.Unlock()
	s.take(pid, root, stdio, true, workload.Record{
		Kind: workload.Capsule, Command: spec.Argv, Dir: cmp.Or(spec.Dir, "/"), Init: initPath,
		Cgroup: group.Path(), Started: time.Now(), LogLimit: spec.LogLimit,
	})
	s.save()
	s.update(func(st *Status) { st.State = Running })
	go s.supervise()
	return nil
}

// commandLine looks the program up, so that a wrong name is an error here and
// not a line in a log, and puts the tiny init in front.
func (s *server) commandLine(spec RunSpec) (argv []string, initPath string, err error) {
	if len(spec.Argv) == 0 {
		return nil, "", errors.New("no program")
	}
	program, err := lookUp(spec.Argv[0], spec.Dir, spec.Env)
	if err != nil {
		return nil, "", err
	}
	argv = append([]string{program}, spec.Argv[1:]...)
	if spec.NoInit {
		return argv, "", nil
	}
	initPath, err = tinyinit.Install(filepath.Join(s.cfg.stateDir, "bin"))
	if err != nil {
		return nil, "", err
	}
	return tinyinit.InitArgs(initPath, argv), initPath, nil
}

// lookUp finds a program as the workload would: in the PATH of its own
// environment, relative to its own directory.
func lookUp(name, dir string, env []string) (string, error) {
	if name == "" {
		return "", errors.New("no program")
	}
	if strings.Contains(name, "/") {
		return name, executable(inDir(dir, name))
	}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, v := range env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			path = p
		}
	}
	for _, d := range filepath.SplitList(path) {
		file := inDir(dir, filepath.Join(cmp.Or(d, "."), name))
		if executable(file) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s: no such program in %s", name, path)
}

func inDir(dir, file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(cmp.Or(dir, "/"), file)
}

func executable(file string) error {
	fi, err := os.Stat(file)
	if err != nil {
		return err
	}
	if fi.IsDir() {
		return &os.PathError{Op: "exec", Path: file, Err: syscall.EISDIR}
	}
	if err := unix.Access(file, unix.X_OK); err != nil {
		return &os.PathError{Op: "exec", Path: file, Err: err}
	}
	return nil
}

// guestFiles returns the program's descriptors 0, 1 and 2.
func guestFiles(spec RunSpec, s *stdio) ([]*os.File, error) {
	if spec.TTY {
		slave, err := s.terminal(Size{Rows: spec.Rows, Columns: spec.Columns})
		return []*os.File{slave, slave, slave}, err
	}
	var in *os.File
	var err error
	if spec.Stdin {
		in, _, err = s.pipeIn()
	} else {
		in, err = os.Open(os.DevNull)
	}
	if err != nil {
		return nil, err
	}
	files := []*os.File{in}
	for _, stream := range []string{"stdout", "stderr"} {
		f, err := s.pipeOut(stream)
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// launch starts argv in the cgroup and namespaces, and returns its PID.
func launch(spec RunSpec, argv []string, files []*os.File, group *cgroup.Group) (pid int, err error) {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Setsid: true, Setctty: spec.TTY}
	if spec.Time {
		attr.Cloneflags |= unix.CLONE_NEWTIME // by clone3(2); old kernels refuse it
	}
	var steps []step
	if group.Version() == 1 {
		steps = append(steps, intoTasks(group.Path()))
	} else {
		dir, err := os.Open(group.Path())
		if err != nil {
			return 0, err
		}
		defer dir.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd()) // CLONE_INTO_CGROUP
	}
	if spec.Net {
		steps = append(steps, intoNetwork)
	}
	err = onThread(steps, func() error {
		p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Dir: cmp.Or(spec.Dir, "/"), Env: spec.Env, Files: files, Sys: attr})
		if err != nil {
			return err
		}
		pid = p.Pid
		return p.Release() // the reaper waits for it
	})
	return pid, err
}
