// Package admin is the listener for operators: health, metrics and profiles. It
// belongs on an address that clients cannot reach.
package admin

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"path/filepath"
)

// Options configure the handler.
type Options struct {
	// Ready reports whether the cache serves, with details by part.
	Ready   func() (ok bool, detail map[string]string)
	Metrics http.Handler
	// Backup writes a consistent copy of the data file; nil: there is none.
	Backup func(w io.Writer) error
	// DataFile is the path of the data file; whoever asks for a backup is told
	// in the header X-Semcached-Data which file it is of.
	DataFile string
	Version  string
}

// New returns the handler of the admin listener.
func New(o Options) http.Handler {
	mux := http.NewServeMux()
	alive := func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok\n") }
	mux.HandleFunc("GET /livez", alive)
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { ready(w, r, o) })
	mux.Handle("GET /metrics", o.Metrics)
	mux.HandleFunc("GET /backup", func(w http.ResponseWriter, r *http.Request) { backup(w, r, o) })
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		plain(w, http.StatusOK, "semcached "+o.Version+"\n\n/healthz  /livez  /readyz?verbose  /metrics  /debug/pprof/\n")
	})
	return mux
}

// backup sends a copy of the data file to this machine and to no other: it has
// everybody's answers in it. A copy that breaks off ends the connection.
func backup(w http.ResponseWriter, r *http.Request, o Options) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		plain(w, http.StatusForbidden, "only from this machine\n")
		return
	}
	if o.Backup == nil {
		plain(w, http.StatusNotFound, "nothing is kept on disk\n")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if path, err := filepath.Abs(o.DataFile); err == nil && o.DataFile != "" {
		w.Header().Set("X-Semcached-Data", path)
	}
	w.Header().Set("Content-Disposition", `attachment; filename="semcached.db"`)
	if err := o.Backup(w); err != nil {
		panic(http.ErrAbortHandler)
	}
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	io.WriteString(w, text)
}

// ready answers 200 once the cache serves and 503 before and while draining. With
// ?verbose it lists the parts.
func ready(w http.ResponseWriter, r *http.Request, o Options) {
	ok, detail := o.Ready()
	status, text := http.StatusOK, "ready\n"
	if !ok {
		status, text = http.StatusServiceUnavailable, "not ready\n"
	}
	if !r.URL.Query().Has("verbose") {
		plain(w, status, text)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"ready": ok, "parts": detail})
}
