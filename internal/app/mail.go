//go:build !slim

package app

import (
	"context"
	"fmt"
	"net/mail"
	"net/url"
	"strconv"
	"time"

	gomail "github.com/wneessen/go-mail"

	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// mailer sends the communications of recovery plans to mail addresses.
type mailer struct {
	host, user, password, from string
	options                    []gomail.Option
}

// mailWithin is how long one message may take to be handed over.
const mailWithin = 20 * time.Second

// newMailer reads smtp://USER@HOST:PORT (STARTTLS is required, except on this machine) or smtps://USER@HOST:PORT.
func newMailer(address, password, from string) (*mailer, error) {
	wrong := func(format string, args ...any) error {
		return problem.New(problem.Usage, "holdfast server --smtp smtp://USER@HOST:587 --mail-from holdfast@example.org, with the password in HOLDFAST_SMTP_PASSWORD",
			"server was not started: "+format, args...)
	}
	at, err := url.Parse(address)
	if err != nil || (at.Scheme != "smtp" && at.Scheme != "smtps") || at.Hostname() == "" {
		return nil, wrong("%q is not the address of a mail server", address)
	}
	if _, set := at.User.Password(); set {
		return nil, wrong("the password of the mail server stands on the command line, where others see it")
	}
	if _, err := mail.ParseAddress(from); err != nil {
		return nil, wrong("%q cannot be the sender of mail", from)
	}
	m := &mailer{host: at.Hostname(), user: at.User.Username(), password: password, from: from}
	if port, err := strconv.Atoi(at.Port()); err == nil {
		m.options = append(m.options, gomail.WithPort(port))
	}
	m.secure(at.Scheme)
	return m, nil
}

// secure chooses how the password and the words are kept from others on the way.
func (m *mailer) secure(scheme string) {
	switch {
	case scheme == "smtps":
		m.options = append(m.options, gomail.WithSSL())
	case m.host == "127.0.0.1" || m.host == "::1" || m.host == "localhost":
		m.options = append(m.options, gomail.WithTLSPolicy(gomail.TLSOpportunistic))
	default:
		m.options = append(m.options, gomail.WithTLSPolicy(gomail.TLSMandatory))
	}
	if m.user != "" {
		m.options = append(m.options, gomail.WithUsername(m.user), gomail.WithPassword(m.password), gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover))
	}
}

// send hands one message over. The same id gives the same Message-ID, by which a receiver knows a repetition.
func (m *mailer) send(ctx context.Context, to, id string, args step.TellArgs) error {
	message := gomail.NewMsg()
	if err := message.From(m.from); err != nil {
		return fmt.Errorf("write mail: %w", err)
	}
	if err := message.To(to); err != nil {
		return fmt.Errorf("write mail to %q: %w", to, err)
	}
	message.Subject("[holdfast] " + args.Event + ": " + firstLine(args.Text))
	message.SetMessageIDWithValue(id + "." + to)
	message.SetDate()
	message.SetBodyString(gomail.TypeTextPlain, args.Text+"\n\n-- \nevent "+args.Event+", for "+args.Audience+"\n")
	client, err := gomail.NewClient(m.host, append(m.options, gomail.WithTimeout(mailWithin))...)
	if err != nil {
		return fmt.Errorf("reach mail server %s: %w", m.host, err)
	}
	if err := client.DialAndSendWithContext(ctx, message); err != nil {
		return fmt.Errorf("send mail to %s: %w", to, err)
	}
	return nil
}

// firstLine is what a subject can hold.
func firstLine(text string) string {
	for i, r := range text {
		if r == '\n' || i >= 120 {
			return text[:i]
		}
	}
	return text
}
