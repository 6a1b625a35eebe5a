package vaulttest_test

import (
	"testing"

	"holdfast/internal/vault"
	"holdfast/internal/vault/vaulttest"
)

func TestMemoryConforms(t *testing.T) {
	vaulttest.Run(t, func(*testing.T) vault.Store { return &vaulttest.Memory{} })
}
