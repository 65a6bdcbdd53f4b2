package drill

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// disk replays what a process did to the files of one folder, and keeps apart what a power failure cannot take
// away. What is written to a file is safe once an fsync or fdatasync of that file that began later has returned;
// until then any part of it may be on the disk, to the sector. Names that are made, changed or removed
// come and go in their order, and are safe after an fsync of the folder. The name of a new file is also safe after
// an fsync of the file, as ext4, XFS and Btrfs have it.
type disk struct {
	dir   string
	names map[string]*inode // as the process sees them
	safe  map[string]*inode // as the disk has them
	moves []move            // not yet in safe, oldest first
}

type inode struct {
	safe    []byte
	pending []write // oldest first
	offset  int64   // where write goes on
}

// write is a part of a file, or its new length if data is nil.
type write struct {
	at    int64
	data  []byte
	began int
}

// move makes name to point to node, and removes the name from if there is one; node nil removes name.
type move struct {
	name, from string
	node       *inode
	began      int
}

const sector = 512

func newDisk(dir string) *disk {
	return &disk{dir: dir, names: make(map[string]*inode), safe: make(map[string]*inode)}
}

// apply takes one moment. changed tells whether a power failure now may differ from one before.
func (d *disk) apply(m moment) (changed bool, err error) {
	inside := func(path string) bool { return strings.HasPrefix(path, d.dir+"/") }
	node := d.names[m.fd]
	switch m.name {
	case "openat":
		path := m.texts[0]
		if !m.ends || m.result < 0 || !inside(path) {
			return false, nil
		}
		if d.names[path] == nil && strings.Contains(m.flags, "O_CREAT") {
			d.move(move{name: path, node: new(inode), began: m.began})
			return true, nil
		}
		if n := d.names[path]; n != nil {
			n.offset = 0
			if strings.Contains(m.flags, "O_TRUNC") {
				n.pending = append(n.pending, write{began: m.began})
				return true, nil
			}
		}
		return false, nil
	case "rename", "renameat", "renameat2":
		if m.ends || !inside(m.texts[0]) {
			return false, nil
		}
		d.move(move{name: m.texts[1], from: m.texts[0], node: d.names[m.texts[0]], began: m.began})
		return true, nil
	case "unlink", "unlinkat":
		if m.ends || d.names[m.texts[0]] == nil {
			return false, nil
		}
		d.move(move{name: m.texts[0], began: m.began})
		return true, nil
	case "link", "linkat":
		if m.ends || !inside(m.texts[0]) {
			return false, nil
		}
		d.move(move{name: m.texts[1], node: d.names[m.texts[0]], began: m.began})
		return true, nil
	case "fsync", "fdatasync":
		if !m.ends || m.result != 0 {
			return false, nil
		}
		if m.fd == d.dir {
			d.settle(func(v move) bool { return v.began < m.began })
			return true, nil
		}
		if node != nil {
			d.settle(func(v move) bool { return v.node == node && v.from == "" && v.began < m.began })
			node.sync(m.began)
		}
		return node != nil, nil
	}
	if node == nil || m.ends && m.name != "lseek" {
		return false, nil
	}
	switch m.name {
	case "pwrite64":
		node.pending = append(node.pending, write{at: m.numbers[len(m.numbers)-1], data: []byte(m.texts[0]), began: m.began})
	case "write":
		node.pending = append(node.pending, write{at: node.offset, data: []byte(m.texts[0]), began: m.began})
		node.offset += int64(len(m.texts[0]))
	case "lseek":
		if m.ends {
			node.offset = m.result
		}
		return false, nil
	case "ftruncate":
		node.pending = append(node.pending, write{at: m.numbers[0], began: m.began})
	case "fallocate":
		if m.numbers[0] != 0 {
			return false, fmt.Errorf("fallocate with mode %d is not known", m.numbers[0])
		}
		node.pending = append(node.pending, write{at: m.numbers[1] + m.numbers[2], data: []byte{}, began: m.began})
	default:
		return false, fmt.Errorf("%s of %s: not known how that meets a power failure", m.name, m.fd)
	}
	return true, nil
}

func (v move) in(names map[string]*inode) {
	delete(names, v.from)
	if v.node == nil {
		delete(names, v.name)
	} else {
		names[v.name] = v.node
	}
}

func (d *disk) move(v move) {
	v.in(d.names)
	d.moves = append(d.moves, v)
}

// settle makes those moves safe.
func (d *disk) settle(which func(move) bool) {
	var left []move
	for _, v := range d.moves {
		if which(v) {
			v.in(d.safe)
		} else {
			left = append(left, v)
		}
	}
	d.moves = left
}

func (n *inode) sync(before int) {
	var left []write
	for _, w := range n.pending {
		if w.began < before {
			n.safe = w.in(n.safe)
		} else {
			left = append(left, w)
		}
	}
	n.pending = left
}

// in returns the file after the write.
func (w write) in(file []byte) []byte {
	end := int(w.at) + len(w.data)
	if w.data == nil && end < len(file) {
		return file[:end]
	}
	if end > len(file) {
		file = append(file, make([]byte, end-len(file))...)
	}
	copy(file[w.at:], w.data)
	return file
}

// atRisk reports whether a power failure now can go in more than one way.
func (d *disk) atRisk() bool {
	if len(d.moves) > 0 {
		return true
	}
	for _, n := range d.names {
		if len(n.pending) > 0 {
			return true
		}
	}
	return false
}

// luck says what of the unsafe a power failure leaves: none, all, or what rng says.
type luck int

const (
	none luck = iota
	all
	some
)

// fail writes the folder to another one as a power failure would leave it.
func (d *disk) fail(to string, l luck, rng *rand.Rand) error {
	names := maps.Clone(d.safe)
	kept := 0
	switch l {
	case all:
		kept = len(d.moves)
	case some:
		kept = rng.IntN(len(d.moves) + 1)
	}
	for _, v := range d.moves[:kept] {
		v.in(names)
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	for name, n := range names {
		path := filepath.Join(to, strings.TrimPrefix(name, d.dir))
		if err := writeSparse(path, n.fail(l, rng)); err != nil {
			return err
		}
	}
	return nil
}

func (n *inode) fail(l luck, rng *rand.Rand) []byte {
	file := append([]byte(nil), n.safe...)
	if l == none {
		return file
	}
	for _, w := range n.pending {
		switch {
		case l == all || rng.IntN(3) == 0:
			file = w.in(file)
		case rng.IntN(2) == 0: // torn
			for at := 0; at < len(w.data); at += sector {
				if rng.IntN(2) == 0 {
					file = write{at: w.at + int64(at), data: w.data[at:min(at+sector, len(w.data))]}.in(file)
				}
			}
		}
	}
	return file
}

// writeSparse leaves the zeros at the end of a file, of which bbolt makes megabytes, to a hole.
func writeSparse(path string, b []byte) error {
	end := len(b)
	for end > 0 && b[end-1] == 0 {
		end--
	}
	if err := os.WriteFile(path, b[:end], 0o600); err != nil {
		return err
	}
	return os.Truncate(path, int64(len(b)))
}
