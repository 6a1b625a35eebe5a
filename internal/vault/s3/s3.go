// Package s3 keeps a repository in a bucket of any S3-compatible object storage.
//
// An object is stored with the condition that its name is free ("If-None-Match: *"), after a look,
// for servers that do not know the condition. Large bodies go in parts; an upload that breaks off leaves
// nothing under the name. Object lock and versioning are the bucket's settings: where they are on, a
// delete only hides, and docs/format/vault.md gives a policy without delete for nodes.
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"holdfast/internal/vault"
)

// Config says where and as whom.
type Config struct {
	Endpoint  string // host[:port]
	Bucket    string
	Prefix    string // of all names
	Region    string
	AccessKey string
	SecretKey string
	Plain     bool // HTTP without TLS, for a server on the same machine
	// Part is the length in bytes above which an object goes in parts of that length; 0 means 16 MiB.
	Part    uint64
	Retries int // of a request; 0 means 10
}

// Store is a part of a bucket.
type Store struct {
	config Config
	client *minio.Core
}

// Open prepares a store and looks whether the bucket is there.
func Open(ctx context.Context, c Config) (*Store, error) {
	client, err := minio.NewCore(c.Endpoint, &minio.Options{
		Creds: credentials.NewStaticV4(c.AccessKey, c.SecretKey, ""), Secure: !c.Plain, Region: c.Region, MaxRetries: c.Retries,
	})
	if err != nil {
		return nil, fmt.Errorf("open s3 store %s: %w", c.Endpoint, err)
	}
	if c.Part == 0 {
		c.Part = 16 << 20
	}
	c.Prefix = strings.Trim(c.Prefix, "/")
	s := &Store{c, client}
	// A listing of the own prefix, and not a look at the bucket, which a node's policy does not allow.
	if _, err := s.List(ctx, ""); err != nil {
		return nil, fmt.Errorf("open s3 store %s/%s: %w", c.Endpoint, c.Bucket, err)
	}
	return s, nil
}

func (s *Store) key(name string) (string, error) {
	if strings.HasPrefix(name, "/") || strings.Contains(name, "..") || strings.Count(name, "/") > 1 {
		return "", fmt.Errorf("object name %q: %w", name, vault.ErrDenied)
	}
	if s.config.Prefix == "" {
		return name, nil
	}
	return s.config.Prefix + "/" + name, nil
}

// Put implements vault.Store.
func (s *Store) Put(ctx context.Context, name string, body []byte) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	free, err := s.free(ctx, key)
	if err != nil {
		return err
	}
	err = s.put(ctx, key, body, true)
	if !errors.Is(err, vault.ErrExists) || !free {
		return err
	}
	// Some servers with versions take the mark that a delete leaves for the object. Then the name is still free.
	if still, lookErr := s.free(ctx, key); lookErr != nil || !still {
		return err
	}
	return s.put(ctx, key, body, false)
}

// free looks whether a name is surely free, and is ErrExists when it surely is not. Who may not look, as a node may not
// at packs, leaves it to the condition.
func (s *Store) free(ctx context.Context, key string) (bool, error) {
	_, err := s.client.StatObject(ctx, s.config.Bucket, key, minio.StatObjectOptions{})
	if err == nil {
		return false, fmt.Errorf("%s: %w", key, vault.ErrExists)
	}
	switch err := translate(err); {
	case errors.Is(err, vault.ErrNotFound):
		return true, nil
	case errors.Is(err, vault.ErrDenied):
		return false, nil
	default:
		return false, err
	}
}

func (s *Store) put(ctx context.Context, key string, body []byte, onlyNew bool) error {
	o := minio.PutObjectOptions{ContentType: "application/octet-stream", PartSize: s.config.Part, NumThreads: 4, SendContentMd5: true}
	if onlyNew {
		o.SetMatchETagExcept("*")
	}
	_, err := s.client.Client.PutObject(ctx, s.config.Bucket, key, bytes.NewReader(body), int64(len(body)), o)
	return translate(err)
}

// Get implements vault.Store.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	key, err := s.key(name)
	if err != nil {
		return nil, err
	}
	if length == 0 {
		return s.nothing(ctx, key)
	}
	var o minio.GetObjectOptions
	switch {
	case length > 0:
		err = o.SetRange(offset, offset+length-1)
	case offset > 0:
		err = o.SetRange(offset, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	r, _, _, err := s.client.GetObject(ctx, s.config.Bucket, key, o)
	if err != nil && minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	if err != nil {
		return nil, translate(err)
	}
	return reader{r}, nil
}

func (s *Store) nothing(ctx context.Context, key string) (io.ReadCloser, error) {
	if _, err := s.client.StatObject(ctx, s.config.Bucket, key, minio.StatObjectOptions{}); err != nil {
		return nil, translate(err)
	}
	return io.NopCloser(bytes.NewReader(nil)), nil
}

// reader gives the errors of a body the sentinels of vault.
type reader struct{ io.ReadCloser }

func (r reader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = translate(err)
	}
	return n, err
}

// List implements vault.Store.
func (s *Store) List(ctx context.Context, folder string) ([]vault.Object, error) {
	prefix, err := s.key(folder)
	if err != nil {
		return nil, err
	}
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		prefix += "/"
	}
	var out []vault.Object
	for o := range s.client.Client.ListObjects(ctx, s.config.Bucket, minio.ListObjectsOptions{Prefix: prefix}) {
		if o.Err != nil {
			return nil, translate(o.Err)
		}
		if strings.HasSuffix(o.Key, "/") {
			continue
		}
		out = append(out, vault.Object{Name: path.Join(folder, path.Base(o.Key)), Size: o.Size, Time: o.LastModified})
	}
	return out, ctx.Err()
}

// Size tells the length of one object; the error is vault.ErrNotFound when there is none.
func (s *Store) Size(ctx context.Context, name string) (int64, error) {
	key, err := s.key(name)
	if err != nil {
		return 0, err
	}
	info, err := s.client.StatObject(ctx, s.config.Bucket, key, minio.StatObjectOptions{})
	return info.Size, translate(err)
}

// Delete implements vault.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	err = translate(s.client.RemoveObject(ctx, s.config.Bucket, key, minio.RemoveObjectOptions{}))
	if errors.Is(err, vault.ErrNotFound) {
		return nil
	}
	return err
}

// Close implements vault.Store.
func (s *Store) Close() error { return nil }

// translate gives the server's answers the sentinels of vault.
func translate(err error) error {
	if err == nil {
		return nil
	}
	switch r := minio.ToErrorResponse(err); {
	case r.Code == minio.NoSuchKey || r.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %w", vault.ErrNotFound, err)
	case r.Code == minio.PreconditionFailed || r.StatusCode == http.StatusPreconditionFailed || r.StatusCode == http.StatusConflict:
		return fmt.Errorf("%w: %w", vault.ErrExists, err)
	case r.Code == minio.AccessDenied || r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%w: %w", vault.ErrDenied, err)
	}
	return err
}
