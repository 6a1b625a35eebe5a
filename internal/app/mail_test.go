//go:build !slim

package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"net/mail"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	gomail "github.com/wneessen/go-mail"

	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// postOffice is a mail server that keeps what it is given; a knob refuses a receiver.
type postOffice struct {
	mu      sync.Mutex
	letters []letter
	refuse  string
}

type letter struct {
	user, from, to string
	message        *mail.Message
	text           string
}

func (p *postOffice) NewSession(*smtp.Conn) (smtp.Session, error) { return &talk{office: p}, nil }

type talk struct {
	office *postOffice
	letter letter
}

func (t *talk) AuthMechanisms() []string { return []string{sasl.Plain} }
func (t *talk) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "holdfast" || password != "right" {
			return errors.New("wrong password")
		}
		t.letter.user = user
		return nil
	}), nil
}
func (t *talk) Mail(from string, _ *smtp.MailOptions) error { t.letter.from = from; return nil }
func (t *talk) Rcpt(to string, _ *smtp.RcptOptions) error {
	if to == t.office.refuse {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "nobody of that name"}
	}
	t.letter.to = to
	return nil
}
func (t *talk) Data(r io.Reader) (err error) {
	if t.letter.message, err = mail.ReadMessage(r); err != nil {
		return err
	}
	text, err := io.ReadAll(t.letter.message.Body)
	t.letter.text = string(text)
	t.office.mu.Lock()
	defer t.office.mu.Unlock()
	t.office.letters = append(t.office.letters, t.letter)
	return err
}
func (t *talk) Reset()        {}
func (t *talk) Logout() error { return nil }

// openOffice starts a mail server with STARTTLS; trust makes a mailer believe its certificate.
func openOffice(t *testing.T) (office *postOffice, addr string, trust func(*mailer)) {
	t.Helper()
	certified := httptest.NewTLSServer(nil) // only for its certificate, which is for 127.0.0.1
	certified.Close()
	roots := x509.NewCertPool()
	roots.AddCert(certified.Certificate())
	trust = func(m *mailer) {
		m.options = append(m.options, gomail.WithTLSConfig(&tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	office = &postOffice{refuse: "gone@customer.example"}
	server := smtp.NewServer(office)
	server.Domain, server.TLSConfig = "localhost", &tls.Config{Certificates: certified.TLS.Certificates, MinVersion: tls.VersionTLS12}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-done })
	return office, listener.Addr().String(), trust
}

func TestMailReachesARealServer(t *testing.T) {
	office, addr, trust := openOffice(t)
	m, err := newMailer("smtp://holdfast@"+addr, "right", "Holdfast <holdfast@notes.example>")
	if err != nil {
		t.Fatal(err)
	}
	trust(m)
	args := step.TellArgs{Event: "declared", Audience: "team", To: []string{"ops@notes.example"}, Text: "par1 is lost \u2014 recovery has begun\nsecond line"}
	for range 2 { // a repetition, as after a crash, is known by its id
		if err := m.send(t.Context(), args.To[0], "op1/tell/1", args); err != nil {
			t.Fatal(err)
		}
	}
	office.mu.Lock()
	defer office.mu.Unlock()
	if len(office.letters) != 2 {
		t.Fatalf("%d letters", len(office.letters))
	}
	one, two := office.letters[0], office.letters[1]
	if one.user != "holdfast" || one.from != "holdfast@notes.example" || one.to != "ops@notes.example" || !strings.Contains(one.text, "second line") || !strings.Contains(one.text, "event declared, for team") {
		t.Errorf("the letter is %+v", one)
	}
	if id := one.message.Header.Get("Message-ID"); id == "" || id != two.message.Header.Get("Message-ID") {
		t.Errorf("message ids %q and %q", id, two.message.Header.Get("Message-ID"))
	}
	if subject := one.message.Header.Get("Subject"); !strings.Contains(subject, "declared") || strings.Contains(subject, "second") {
		t.Errorf("subject %q", subject)
	}
}

func TestMailThatDoesNotGoOut(t *testing.T) {
	_, addr, trust := openOffice(t)
	send := func(address, password, to string) error {
		m, err := newMailer(address, password, "holdfast@notes.example")
		if err != nil {
			return err
		}
		if password != "" {
			trust(m)
		}
		return m.send(context.Background(), to, "op1/tell/1", step.TellArgs{Event: "declared", Text: "x"})
	}
	for _, c := range []struct{ address, password, to, want string }{
		{"smtp://holdfast@" + addr, "wrong", "ops@notes.example", "send mail to ops@notes.example: "},
		{"smtp://holdfast@" + addr, "right", "gone@customer.example", "nobody of that name"},
		{"smtp://holdfast@" + addr, "", "ops@notes.example", "certificate signed by unknown authority"},
		{"smtp://127.0.0.1:1", "", "ops@notes.example", "connection refused"},
		{"mail.example", "", "ops@notes.example", `server was not started: "mail.example" is not the address of a mail server`},
		{"smtp://me:secret@mail.example", "", "ops@notes.example", "server was not started: the password of the mail server stands on the command line, where others see it"},
	} {
		if err := send(c.address, c.password, c.to); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want %q", c.address, err, c.want)
		}
	}
	if _, err := newMailer("smtp://mail.example", "", "nobody"); problem.KindOf(err) != problem.Usage || err.Error() != `server was not started: "nobody" cannot be the sender of mail` {
		t.Errorf("a sender that is none: %v", err)
	}
}
