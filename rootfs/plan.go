package rootfs

import (
	"maps"
	"slices"
)

// object is a file, directory or whatever that the target has, as it has it. All
// names of one file share it.
type object struct {
	state
	// unsure: what it is may differ from the state, however equal its times are.
	unsure bool
}

// state is what the target has of an object, and as what the source saw it then.
type state struct {
	attrs
	id    inode
	ctime stamp
	sums  []blockSum // of a regular file's blocks that hold data
}

// known is a name that the target has.
type known struct {
	path string
	*object
}

// group gathers the names of one file.
type group struct {
	object *object // what the target has of it; nil if nothing
	leader string  // a name at which the target has it; "" while there is none
	slot   uint32  // where a Take puts it, if it has lost its old name; 0 if not
	done   bool    // it was compared in this pass
	unsure bool    // for one of its names: as of object
}

// item is a name that was found in the source's tree.
type item struct {
	found
	old   *object // what the target has at this name and keeps; nil if nothing
	group *group  // nil for a directory
}

// removal is a name that the target has and shall lose.
type removal struct {
	path string
	slot uint32 // where the file is put aside; 0 to remove it
}

// plan is what makes the names of the target's tree those of the source's.
type plan struct {
	removals []removal // in reverse order of paths: what is in a directory before it
	items    []item    // in order of paths
}

// makePlan compares the names that the target has with those found, both in order. Lost
// are names of which it is not known whether the target has them.
func makePlan(have []known, now []found, lost []string) plan {
	p := plan{items: make([]item, 0, len(now))}
	all := make(groups, len(now))
	var loose []known
	for i, j := 0, 0; i < len(have) || j < len(now); {
		order := -1
		switch {
		case i == len(have):
			order = 1
		case j < len(now):
			order = comparePaths(have[i].path, now[j].path)
		}
		if order < 0 {
			loose = append(loose, have[i])
			i++
			continue
		}
		it := item{found: now[j]}
		j++
		if order == 0 {
			if it.keep(have[i], all) {
				it.old = have[i].object
			} else {
				loose = append(loose, have[i])
			}
			i++
		}
		if it.kind != directory && it.group == nil {
			it.group = all.of(it.id, it.kind)
		}
		p.items = append(p.items, it)
	}
	p.removals = removals(loose, all)
	for _, path := range lost {
		p.removals = append(p.removals, removal{path: path})
	}
	slices.SortFunc(p.removals, func(a, b removal) int { return comparePaths(b.path, a.path) })
	p.removals = slices.CompactFunc(p.removals, func(a, b removal) bool { return a.path == b.path })
	return p
}

// keep decides whether what the target has at the item's name stands for it, and if
// so makes it the item's group.
func (it *item) keep(have known, all groups) bool {
	switch {
	case have.kind != it.kind:
		return false
	case it.kind == directory:
		return true
	case have.id != it.id || have.rdev != it.rdev:
		return false
	case it.kind == symlink && (have.unsure || !have.equalStat(&it.stat)):
		return false // a new one may have got the old one's number
	}
	it.group = all.of(it.id, it.kind)
	if it.group.object == nil {
		it.group.object, it.group.leader = have.object, it.path
	}
	return it.group.object == have.object
}

// groups are the files that were found. A number that was freed may be of another kind
// of file when it is seen again.
type groups map[fileID]*group

type fileID struct {
	inode
	kind entryKind
}

func (all groups) of(id inode, kind entryKind) *group {
	key := fileID{id, kind}
	g := all[key]
	if g == nil {
		g = &group{}
		all[key] = g
	}
	return g
}

// removals decides what becomes of names that do not stay. A regular file that has a
// new name, and none that stays, is put aside for it.
func removals(loose []known, all groups) []removal {
	var list []removal
	slots := uint32(0)
	for _, k := range loose {
		r := removal{path: k.path}
		if g := all[fileID{k.id, regular}]; g != nil && k.kind == regular && g.object == nil {
			slots++
			g.object, g.slot, r.slot = k.object, slots, slots
		}
		list = append(list, r)
	}
	return list
}

// equalStat reports whether nothing that changes a file's times has happened to it
// since the target got it.
func (o *object) equalStat(s *stat) bool {
	return o.ctime == s.ctime && o.mtime == s.mtime && o.id == s.id && o.mode == s.mode && o.uid == s.uid &&
		o.gid == s.gid && o.rdev == s.rdev && (s.kind != regular || o.size == s.size)
}

// op is a step of a pass as the source remembers it until it knows whether the target
// did it.
type op struct {
	verb  verb    // 0 for Remove and Take
	path  string  // of the name
	obj   *object // of an Entry
	state *state  // of an Entry: what obj is then; nil for a link
}

// replay returns what the target has after the first done steps of a pass, and the
// names of which that is not known: the step that follows may have been done in part.
func replay(have []known, lost []string, log []op, done uint64) ([]known, []string) {
	names := make(map[string]*object, len(have)+len(log))
	for _, k := range have {
		names[k.path] = k.object
	}
	unknown := map[string]bool{}
	for _, path := range lost {
		unknown[path] = true
	}
	for i := range log[:min(done, uint64(len(log)))] {
		log[i].apply(names)
		delete(unknown, log[i].path)
	}
	if done < uint64(len(log)) {
		for _, path := range log[done].interrupted(names) {
			unknown[path] = true
		}
	}
	now := make([]known, 0, len(names))
	for path, obj := range names {
		now = append(now, known{path, obj})
	}
	slices.SortFunc(now, func(a, b known) int { return comparePaths(a.path, b.path) })
	return now, slices.Collect(maps.Keys(unknown))
}

func (o *op) apply(names map[string]*object) {
	if o.verb == 0 {
		delete(names, o.path)
		return
	}
	names[o.path] = o.obj
	if o.state != nil {
		o.obj.state = *o.state
	}
}

// interrupted notes a step that may have been done in part, and returns the names of
// which nothing is known.
func (o *op) interrupted(names map[string]*object) (lost []string) {
	if o.verb == update && o.obj.kind == directory {
		names[o.path] = &object{state: state{attrs: attrs{kind: directory}}, unsure: true}
		return nil
	}
	delete(names, o.path)
	for path, obj := range names { // other names of a file that was being changed
		if o.verb == update && obj == o.obj {
			delete(names, path)
			lost = append(lost, path)
		}
	}
	return append(lost, o.path)
}
