package alert

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/mail"
	"net/smtp"
	"net/url"
	"strings"
	"time"
)

// webhook posts alerts.
type webhook struct {
	url    string
	slack  bool
	client http.Client
}

// NewWebhook returns a sink that posts each alert to a URL: as a JSON object with
// the fields of Alert, or with slack as the message that Slack, Mattermost and the
// like take.
func NewWebhook(url string, slack bool) Sink {
	return &webhook{url: url, slack: slack, client: http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (w *webhook) Name() string { return "webhook" }

func (w *webhook) Send(ctx context.Context, a Alert) error {
	var body any = a
	if w.slack {
		body = map[string]string{"text": a.headline() + "\n" + a.Text}
	}
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(b))
	if err != nil {
		return errors.New("the webhook's URL cannot be used") // without the URL, which is a secret
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "semcached")
	resp, err := w.client.Do(req)
	if err != nil {
		return withoutURL(err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode >= 300 {
		return fmt.Errorf("the webhook answered %s", resp.Status)
	}
	return nil
}

// withoutURL returns the cause of a failed call: the call's own error repeats the
// URL, which is a secret.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// headline is the alert in one line.
func (a Alert) headline() string {
	what := a.Name
	if a.Subject != "" {
		what += " " + a.Subject
	}
	return fmt.Sprintf("[%s] semcached on %s: %s", strings.ToUpper(a.State), a.Instance, what)
}

// Mail says where and from whom to whom mail goes.
type Mail struct {
	Addr               string // host:port of the server
	From               string
	To                 []string
	Username, Password string // "" : no login
}

type mailer struct{ m Mail }

// NewMail returns a sink that sends a mail for each alert: by TLS if the server
// offers it (STARTTLS; port 465 begins with it), and with a login only by TLS or to
// this machine.
func NewMail(m Mail) Sink { return mailer{m} }

func (mailer) Name() string { return "smtp" }

func (s mailer) Send(ctx context.Context, a Alert) (err error) {
	host, port, err := net.SplitHostPort(s.m.Addr)
	if err != nil {
		return err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.m.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	config := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if port == "465" {
		conn = tls.Client(conn, config)
	}
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		return err
	}
	defer c.Close()
	if ok, _ := c.Extension("STARTTLS"); ok && port != "465" {
		if err := c.StartTLS(config); err != nil {
			return err
		}
	}
	if s.m.Username != "" {
		if err := c.Auth(smtp.PlainAuth("", s.m.Username, s.m.Password, host)); err != nil {
			return err
		}
	}
	return s.deliver(c, a)
}

func (s mailer) deliver(c *smtp.Client, a Alert) error {
	from, err := mail.ParseAddress(s.m.From)
	if err != nil {
		return err
	}
	if err := c.Mail(from.Address); err != nil {
		return err
	}
	for _, to := range s.m.To {
		who, err := mail.ParseAddress(to)
		if err != nil {
			return err
		}
		if err := c.Rcpt(who.Address); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(s.message(a)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return c.Quit()
}

// message is the mail (RFC 5322).
func (s mailer) message(a Alert) []byte {
	oneLine := strings.NewReplacer("\r", " ", "\n", " ")
	var b bytes.Buffer
	for _, h := range [][2]string{
		{"From", s.m.From}, {"To", strings.Join(s.m.To, ", ")}, {"Subject", a.headline()},
		{"Date", time.Now().Format(time.RFC1123Z)}, {"Auto-Submitted", "auto-generated"},
		{"MIME-Version", "1.0"}, {"Content-Type", "text/plain; charset=utf-8"},
	} {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], oneLine.Replace(h[1]))
	}
	fmt.Fprintf(&b, "\r\n%s\r\n\r\nsince %s\r\n", oneLine.Replace(a.Text), a.Since.Format(time.RFC3339))
	return b.Bytes()
}
