//go:build !slim

package app

import (
	"context"
	"net/url"
	"os"
	"path"
	"strings"

	"holdfast/internal/problem"
	"holdfast/internal/vault/s3"
	"holdfast/internal/vault/serve"
)

// bucketAt gives what opens a repository below an s3:// address. The credentials stand in the environment of the vault's
// agent and nowhere else: nodes that back up or restore never hold them.
func bucketAt(address string) (func(ctx context.Context, prefix string) (serve.Bucket, error), error) {
	config, err := bucketConfig(address)
	if err != nil {
		return nil, err
	}
	if config.AccessKey == "" || config.SecretKey == "" {
		return nil, problem.New(problem.Usage, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for the agent of this vault",
			"the agent did not start: the bucket %s has no credentials", address)
	}
	return func(ctx context.Context, prefix string) (serve.Bucket, error) {
		mine := config
		mine.Prefix = path.Join(config.Prefix, prefix)
		return s3.Open(ctx, mine)
	}, nil
}

// bucketConfig reads s3://endpoint/bucket/prefix?region=R&plain=1, with credentials from the environment.
func bucketConfig(address string) (s3.Config, error) {
	u, err := url.Parse(address)
	if err != nil {
		return s3.Config{}, problem.New(problem.Usage, "s3://endpoint/bucket/prefix", "repository %q: it is not an address", address)
	}
	bucket, prefix, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if u.Scheme != "s3" || u.Host == "" || bucket == "" || u.User != nil {
		return s3.Config{}, problem.New(problem.Usage, "s3://endpoint/bucket/prefix", "repository %q: endpoint or bucket is missing", u.Redacted())
	}
	return s3.Config{
		Endpoint: u.Host, Bucket: bucket, Prefix: prefix, Region: u.Query().Get("region"), Plain: u.Query().Get("plain") == "1",
		AccessKey: os.Getenv("AWS_ACCESS_KEY_ID"), SecretKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
	}, nil
}
