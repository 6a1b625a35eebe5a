package app

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"holdfast/internal/agent"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
	"holdfast/internal/vault/disk"
	"holdfast/internal/vault/serve"
)

// VaultSettings is how a node with role vault keeps repositories for others.
type VaultSettings struct {
	Listen string // host:port of its SFTP listener; "" = port 7422 of the node's address
	Dir    string // where the repositories lie; "" = vault/ in the data directory
	Bucket string // s3://endpoint/bucket/prefix, where they lie instead; Dir then holds uploads until they are whole
}

// VaultPort is where a vault listens unless told otherwise.
const VaultPort = "7422"

// KitName is the file in a vault's data directory that holds the server's kit.
const KitName = "server.kit"

// vaultPart serves the repositories of a vault to the nodes that the server's grants name.
type vaultPart struct {
	key    ssh.PublicKey
	bucket func(ctx context.Context, prefix string) (serve.Bucket, error) // nil = repositories lie in a folder

	mu     sync.Mutex // guards the rest
	addr   string
	grants map[string]map[string]serve.Rights // key in authorized_keys form -> instance -> rights
}

// vault opens the vault of this node, when that is a role of it.
func (p *nodeProcess) vault(ctx context.Context) error {
	if !slices.Contains(p.Self.Roles, fleet.RoleVault) {
		return nil
	}
	v := &vaultPart{key: p.config.Identity.HostKey.PublicKey()}
	if p.Vault.Bucket != "" {
		open, err := bucketAt(p.Vault.Bucket)
		if err != nil {
			return err
		}
		v.bucket = open
		p.look(ctx, open)
	}
	p.config.Settings.Grants = v.Grants
	p.config.Settings.Kit = func(_ context.Context, setting link.KitSetting) error {
		return agent.WriteDurable(filepath.Join(p.Dir, KitName), setting.Kit)
	}
	p.config.Facts = append(p.config.Facts, v.Facts)
	p.runs = append(p.runs, v.listener(p.Agent, p.config.Identity.HostKey, p.spool.Changed).Run)
	return nil
}

// look says at the start whether the bucket answers. One that does not is no reason to end: each session opens it anew.
func (p *nodeProcess) look(ctx context.Context, open func(context.Context, string) (serve.Bucket, error)) {
	bucket, err := open(ctx, "")
	if err != nil {
		p.Log.Error("the bucket of this vault does not answer: no backup is taken or given until it does", "bucket", p.Vault.Bucket, "error", err)
		return
	}
	p.warn("bucket", bucket.Close())
}

func (v *vaultPart) listener(a Agent, hostKey ssh.Signer, changed func()) *serve.Listener {
	l := &serve.Listener{Addr: a.Vault.Listen, Root: a.vaultDir(), Bucket: v.bucket, HostKey: hostKey, Authorize: v.authorize, Log: a.Log.With(slog.String("part", "vault"))}
	if l.Addr == "" {
		l.Addr = net.JoinHostPort(a.Self.Address, VaultPort)
	}
	if v.bucket != nil {
		l.Root = filepath.Join(l.Root, "uploads")
	}
	l.Ready = func(at net.Addr) {
		v.mu.Lock()
		v.addr = at.String()
		v.mu.Unlock()
		changed()
	}
	return l
}

// vaultDir is where the repositories lie.
func (a Agent) vaultDir() string {
	if a.Vault.Dir != "" {
		return a.Vault.Dir
	}
	return filepath.Join(a.Dir, "vault")
}

// kept is how the node's own steps reach the repositories that it keeps, when that is a role of it.
func (p *nodeProcess) kept() *agent.KeptRepositories {
	if !slices.Contains(p.Self.Roles, fleet.RoleVault) {
		return nil
	}
	if p.Vault.Bucket != "" {
		return keptInBucket(p.Vault.Bucket)
	}
	return &agent.KeptRepositories{
		Names: func(context.Context) ([]string, error) { return agent.Folders(p.vaultDir()) },
		Open: func(_ context.Context, instance string) (vault.Store, error) {
			return disk.Open(filepath.Join(p.vaultDir(), instance)), nil
		},
	}
}

// keptInBucket reaches repositories that lie in a bucket; which there are is told by the names of all its objects.
func keptInBucket(address string) *agent.KeptRepositories {
	open := func(ctx context.Context, prefix string) (serve.Bucket, error) {
		at, err := bucketAt(address)
		if err != nil {
			return nil, err
		}
		return at(ctx, prefix)
	}
	names := func(ctx context.Context) ([]string, error) {
		bucket, err := open(ctx, "")
		if err != nil {
			return nil, err
		}
		defer bucket.Close()
		objects, err := bucket.List(ctx, "")
		var all []string
		for _, object := range objects {
			if name, _, below := strings.Cut(object.Name, "/"); below && !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
		return all, err
	}
	return &agent.KeptRepositories{Names: names, Open: func(ctx context.Context, instance string) (vault.Store, error) { return open(ctx, instance) }}
}

// Grants replaces who may do what; logins that stand keep what they were given.
func (v *vaultPart) Grants(_ context.Context, setting link.GrantsSetting) error {
	grants, err := grantsOf(setting)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.grants = grants
	return nil
}

// grantsOf reads a setting; rights on one repository add up.
func grantsOf(setting link.GrantsSetting) (map[string]map[string]serve.Rights, error) {
	all := map[string]map[string]serve.Rights{}
	for _, g := range setting.Grants {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(g.Key))
		if err != nil {
			return nil, problem.Wrap(err, problem.Invalid, "", "grants were not taken: the key for instance %s cannot be read", g.Instance)
		}
		of := all[authorized(key)]
		if of == nil {
			of = map[string]serve.Rights{}
			all[authorized(key)] = of
		}
		rights := of[g.Instance]
		rights.Write = rights.Write || g.Rights == "write"
		rights.Read = rights.Read || g.Rights == "read"
		of[g.Instance] = rights
	}
	return all, nil
}

// authorized is a key in the form of an authorized_keys file.
func authorized(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// authorize gives a node its rights on the one repository that it logs in for.
func (v *vaultPart) authorize(instance string, key ssh.PublicKey) (serve.Grant, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	rights, ok := v.grants[authorized(key)][instance]
	return serve.Grant{Prefix: instance, Rights: rights}, ok
}

// Facts tells where the vault listens and by which key it is known.
func (v *vaultPart) Facts(_ context.Context, facts *fleet.NodeFacts) {
	v.mu.Lock()
	defer v.mu.Unlock()
	facts.VaultAddr, facts.VaultKey = v.addr, authorized(v.key)
}
