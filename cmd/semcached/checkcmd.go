package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/bolt"
)

// checkReport is what check --json prints.
type checkReport struct {
	File        string   `json:"file"`
	Format      int      `json:"format,omitempty"` // of the file; 0: it cannot be opened
	Sound       bool     `json:"sound"`
	Records     int      `json:"records"`
	Expired     int      `json:"expired"` // of records
	Damaged     int      `json:"damaged"` // records or answers whose checksum is wrong
	Stray       int      `json:"stray"`   // answers and expiries without a record
	Quarantined int      `json:"quarantined"`
	Bytes       int64    `json:"bytes"`
	Free        int64    `json:"free_bytes"`
	Problems    []string `json:"problems"` // the first of them
	Repaired    *repair  `json:"repaired,omitempty"`
}

// repair says what --repair has done.
type repair struct {
	File    string `json:"file"`
	Records int    `json:"records"`
	Left    int    `json:"left_out"` // damaged or expired
}

// checkData verifies the data file, or writes what is sound in it to a new one. Exit
// codes: 0 sound, or repaired into a sound file; 1 damaged; 2 usage; 3 the file could not
// be looked at, or the new one not be written.
func checkData(ctx context.Context, env environment) int {
	t, code, ok := newTool(env, fileOption, jsonOption, option{"repair", "NEW", "write every sound record to a new file"})
	if !ok {
		return code
	}
	var out checkReport
	err := t.read(ctx, func(path, name string) (err error) {
		out, err = t.check(ctx, path, name)
		return err
	})
	if err != nil {
		t.fail(err)
		return exitPartly
	}
	if t.on("json") {
		b, _ := json.MarshalIndent(out, "", "  ")
		fmt.Fprintf(t.stdout, "%s\n", b)
	} else {
		out.print(t)
	}
	if !out.Sound && out.Repaired == nil {
		return exitFailed
	}
	return exitOK
}

// check verifies one file, and repairs it if that is asked for.
func (t *dataTool) check(ctx context.Context, path, name string) (out checkReport, err error) {
	r, err := bolt.Check(ctx, path, time.Now())
	switch {
	case errors.Is(err, store.ErrCorrupt): // it cannot even be opened
		r = &bolt.Report{Problems: []string{err.Error()}}
	case err != nil:
		return out, err
	}
	out = checkReport{
		File: name, Format: r.Format, Sound: err == nil && r.Sound(), Records: r.Records, Expired: r.Expired, Damaged: r.Damaged, Stray: r.Stray,
		Quarantined: r.Quarantined, Bytes: r.Bytes, Free: r.Free, Problems: append([]string{}, r.Problems...),
	}
	to := t.given["repair"]
	if to == "" {
		return out, nil
	}
	kept, left, err := bolt.Rewrite(ctx, path, to, time.Now())
	if errors.Is(err, store.ErrCorrupt) {
		out.Problems = append(out.Problems, "nothing can be read of it, and no new file was written")
		return out, nil
	}
	if err != nil {
		return out, err
	}
	after, err := bolt.Check(ctx, to, time.Now())
	if err != nil {
		return out, err
	}
	if !after.Sound() {
		return out, fmt.Errorf("the new file %s does not check: %v", to, after.Problems)
	}
	out.Repaired = &repair{File: to, Records: kept, Left: left}
	return out, nil
}

func (out *checkReport) print(t *dataTool) {
	fmt.Fprintf(t.stdout, "%s\n  %d records, %d of them expired\n  %d bytes, %d of them free\n  %d damaged, %d stray, %d put aside earlier\n",
		out.File, out.Records, out.Expired, out.Bytes, out.Free, out.Damaged, out.Stray, out.Quarantined)
	for _, p := range out.Problems {
		fmt.Fprintln(t.stdout, "  -", p)
	}
	switch r := out.Repaired; {
	case r != nil:
		fmt.Fprintf(t.stdout, "%d records written to %s, %d left out; `semcached restore --from %s` puts it in place\n", r.Records, r.File, r.Left, r.File)
	case out.Sound:
		fmt.Fprintln(t.stdout, "sound")
	default:
		fmt.Fprintln(t.stdout, "not sound; --repair NEW writes what is to a new file, for `semcached restore --from NEW`")
	}
}
