//go:build slim

package app

import (
	"context"

	"holdfast/internal/problem"
	"holdfast/internal/vault/serve"
)

// bucketAt refuses: the client of object storages is left out of the small program, for few nodes need it.
func bucketAt(address string) (func(ctx context.Context, prefix string) (serve.Bucket, error), error) {
	return nil, problem.New(problem.Usage, "run this vault with the whole program: holdfast agent --vault-bucket "+address,
		"the agent did not start: holdfast-agent keeps no vault in a bucket")
}
