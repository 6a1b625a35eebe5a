package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"holdfast/internal/problem"
)

// Client speaks to one server as one actor. Its methods return what the server found wrong as problem.Error or
// problem.List, and kind Unavailable when no server answers.
type Client struct {
	server string
	token  string
	http   *http.Client
}

// NewClient makes a client of the context's server.
func NewClient(c Context) (*Client, error) {
	config, err := c.TLS()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 60 * time.Second,
	}
	return &Client{strings.TrimRight(c.Server, "/"), c.Token, &http.Client{Transport: transport}}, nil
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// maxAnswer bounds what is read of one answer.
const maxAnswer = 256 << 20

func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	return call[T](ctx, c, http.MethodGet, path, query, nil)
}

func post[T any](ctx context.Context, c *Client, path string, body any) (T, error) {
	return call[T](ctx, c, http.MethodPost, path, nil, body)
}

// call sends body as JSON and reads the answer into a T.
func call[T any](ctx context.Context, c *Client, method, path string, query url.Values, body any) (answer T, err error) {
	response, err := c.send(ctx, method, path, query, body)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return answer, c.unreachable(ctx, err)
	}
	if len(raw) == 0 {
		return answer, nil
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return answer, problem.Wrap(err, problem.Unavailable, "check that "+c.server+" is a Holdfast server of this version", "answer of %s cannot be read", path)
	}
	return answer, nil
}

// send gives a response whose status is 2xx; its body must be closed.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	var raw bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&raw).Encode(body); err != nil {
			return nil, fmt.Errorf("encode request to %s: %w", path, err)
		}
	}
	address := c.server + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, address, &raw)
	if err != nil {
		return nil, problem.Wrap(err, problem.Usage, "holdfast login URL", "server address is wrong")
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+c.token)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if response.StatusCode/100 == 2 {
		return response, nil
	}
	defer response.Body.Close()
	return nil, readProblem(response)
}

func readProblem(response *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	found := &Problem{Status: response.StatusCode}
	if err != nil || json.Unmarshal(raw, found) != nil {
		found.Detail = strings.TrimSpace(string(raw))
	}
	return found.asError()
}

func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	return problem.Wrap(err, problem.Unavailable, "see that the server runs and this machine reaches it: curl -k "+c.server+"/healthz", "server %s does not answer", c.server)
}
