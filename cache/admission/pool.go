package admission

// pool is a set of items with a limit: all of them, or those of one group. Newcomers
// form the window, a list from the oldest to the newest.
type pool[T any] struct {
	name   string
	level  int // index of this pool's place in Item.in
	limit  Limit
	listed bool // in Policy.over

	items  []*Item[T] // in no order, newcomers among them
	bytes  int64
	oldest *Item[T] // of the window; nil if it is empty
	newest *Item[T]
	fresh  int64 // bytes of the window
	young  int   // items in the window
}

// place is where an item is in a pool.
type place[T any] struct {
	pos        int  // in items
	fresh      bool // in the window
	prev, next *Item[T]
}

func (g *pool[T]) exceeded() bool {
	return g.limit.Bytes > 0 && g.bytes > g.limit.Bytes || g.limit.Entries > 0 && len(g.items) > g.limit.Entries
}

// crowded reports whether the window holds more than its share.
func (g *pool[T]) crowded() bool {
	if g.young < 2 {
		return false
	}
	return g.limit.Bytes > 0 && g.fresh > g.limit.Bytes/windowShare || g.limit.Entries > 0 && g.young > max(1, g.limit.Entries/windowShare)
}

func (g *pool[T]) add(it *Item[T]) {
	at := &it.in[g.level]
	*at = place[T]{pos: len(g.items), fresh: true, prev: g.newest}
	g.items = append(g.items, it)
	if g.newest == nil {
		g.oldest = it
	} else {
		g.newest.in[g.level].next = it
	}
	g.newest = it
	g.bytes += it.bytes
	g.fresh += it.bytes
	g.young++
	// While there is room, newcomers need not prove anything.
	for !g.exceeded() && g.crowded() {
		g.graduate(g.oldest)
	}
}

// graduate moves it from the window to the others.
func (g *pool[T]) graduate(it *Item[T]) {
	at := &it.in[g.level]
	if at.prev == nil {
		g.oldest = at.next
	} else {
		at.prev.in[g.level].next = at.next
	}
	if at.next == nil {
		g.newest = at.prev
	} else {
		at.next.in[g.level].prev = at.prev
	}
	at.prev, at.next, at.fresh = nil, nil, false
	g.fresh -= it.bytes
	g.young--
}

func (g *pool[T]) remove(it *Item[T]) {
	if it.in[g.level].fresh {
		g.graduate(it)
	}
	last := len(g.items) - 1
	pos := it.in[g.level].pos
	g.items[pos] = g.items[last]
	g.items[pos].in[g.level].pos = pos
	g.items[last] = nil
	g.items = g.items[:last]
	g.bytes -= it.bytes
}
