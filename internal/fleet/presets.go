package fleet

import "slices"

// A preset knows how a kind of state is dumped and loaded. Folders and SQLite files are read by the node itself; the
// databases are asked by their own programs, in the container of the service that holds them (exec: on the node).
// Each command is run without a shell of its own; where several must run in a row, the command is a shell. Scripts write
// no ${...} of their own: those are references.
//
// MongoDB, PostgreSQL and MariaDB dump one consistent moment while they serve (mongodump: of each collection) and
// their loads replace what is there. Redis writes the same file that it starts from.

// database is a state with the port that its service listens on.
type database struct {
	StateKeys
	port string // "" = the service declares none: the usual one of the kind
}

// preset gives the commands of a state; ok is false where the node needs none.
func (s database) preset() (dump, load []string, ok bool) {
	switch s.Kind {
	case StateMongoDB:
		return s.mongoDump(), s.mongoLoad(), true
	case StateRedis:
		return s.redisDump(), s.redisLoad(), true
	case StatePostgres:
		return s.postgresDump(), s.postgresLoad(), true
	case StateMariaDB:
		return s.mariaDump(), s.mariaLoad(), true
	case StateCommand:
		return s.Dump.args(), s.Load.args(), true
	case StateFolder, StateSQLite:
		return nil, nil, false
	}
	return nil, nil, false
}

// args of a command that may not be given: reading has refused such a state, and says more than that.
func (c *CommandKeys) args() []string {
	if c == nil {
		return nil
	}
	return c.Args
}

// address is how a client reaches the database: on docker the service's own name, on exec the allotted port.
func (s database) address() (host, port string) {
	host = "${host:" + s.Service + "}"
	if s.port != "" {
		return host, "${port:" + s.Service + "." + s.port + "}"
	}
	switch s.Kind {
	case StateMongoDB:
		return host, "27017"
	case StateRedis:
		return host, "6379"
	case StatePostgres:
		return host, "5432"
	case StateMariaDB:
		return host, "3306"
	case StateFolder, StateSQLite, StateCommand:
	}
	return host, ""
}

func (s database) mongoArgs() []string {
	host, port := s.address()
	args := []string{"--quiet", "--archive", "--host=" + host, "--port=" + port}
	if s.User != "" {
		args = append(args, "--username="+s.User, "--authenticationDatabase=admin")
	}
	if s.Database != "" {
		args = append(args, "--db="+s.Database)
	}
	return args
}

func (s database) mongoDump() []string { return s.mongo("mongodump", s.mongoArgs()) }

func (s database) mongoLoad() []string {
	args := append(s.mongoArgs(), "--drop")
	if i := slices.Index(args, "--db="+s.Database); i >= 0 {
		args[i] = "--nsInclude=" + s.Database + ".*"
	}
	return s.mongo("mongorestore", args)
}

// mongo gives the password in a file that only this user reads and that ends with the command.
func (s database) mongo(program string, args []string) []string {
	if s.Password == "" {
		return append([]string{program}, args...)
	}
	script := `umask 077; f=$(mktemp); trap 'rm -f "$f"' EXIT; printf 'password: "%s"\n' "$P" >"$f"; "$@" --config="$f"`
	return s.withSecret("P", append([]string{"sh", "-c", script, "sh", program}, args...))
}

// redisDump asks for a snapshot as a replica does; what is written meanwhile is not in it. It goes by a file: straight
// to standard output, the mark that ends the transfer would stay behind the snapshot, and an append-only file whose base
// ends with it does not load.
func (s database) redisDump() []string {
	script := `umask 077; f=$(mktemp); trap 'rm -f "$f"' EXIT; "$@" --rdb "$f" >/dev/null && cat "$f"`
	return s.withSecret("REDISCLI_AUTH", append([]string{"sh", "-c", script, "sh"}, s.redisClient()...))
}

// redisLoad puts the snapshot where the server starts from and forbids it to write its own over it when it stops.
// Load is followed by a stop, so that the next start reads it. With an append-only file the server would start from
// that instead, so the snapshot becomes the base of a fresh one (Redis 7) or the file itself (before).
func (s database) redisLoad() []string {
	script := `set -e
get() { "$@" --raw CONFIG GET "$key" | tail -n 1; }
key=dir; dir=$(get "$@"); key=dbfilename; file=$(get "$@")
key=appendonly; aof=$(get "$@"); key=appenddirname; aofdir=$(get "$@"); key=appendfilename; aoffile=$(get "$@")
"$@" CONFIG SET save "" >/dev/null
cat >"$dir/load.tmp"
if [ "$aof" = yes ]; then "$@" CONFIG SET appendonly no >/dev/null; fi
if [ "$aof" = yes ] && [ -n "$aofdir" ]; then
  rm -rf "$dir/$aofdir"; mkdir -p "$dir/$aofdir"
  cp "$dir/load.tmp" "$dir/$aofdir/$aoffile.1.base.rdb"
  printf 'file %s.1.base.rdb seq 1 type b\n' "$aoffile" >"$dir/$aofdir/$aoffile.manifest"
elif [ "$aof" = yes ]; then
  cp "$dir/load.tmp" "$dir/$aoffile"
fi
mv "$dir/load.tmp" "$dir/$file"`
	return s.withSecret("REDISCLI_AUTH", append([]string{"sh", "-c", script, "sh"}, s.redisClient()...))
}

func (s database) redisClient() []string {
	host, port := s.address()
	client := []string{"redis-cli", "-h", host, "-p", port}
	if s.User != "" {
		client = append(client, "--user", s.User)
	}
	return client
}

func (s database) postgresDump() []string {
	return s.postgres("pg_dump", "--format=custom", "--no-owner", "--no-privileges", "--dbname="+s.Database)
}

// postgresLoad replaces the objects of the dump in one transaction: all of it, or nothing.
func (s database) postgresLoad() []string {
	return s.postgres("pg_restore", "--clean", "--if-exists", "--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error", "--dbname="+s.Database)
}

func (s database) postgres(program string, args ...string) []string {
	host, port := s.address()
	line := []string{program, "--host=" + host, "--port=" + port, "--username=" + otherwise(s.User, "postgres"), "--no-password"}
	return s.withSecret("PGPASSWORD", append(line, args...))
}

func (s database) mariaDump() []string {
	line := s.maria("mariadb-dump", "--single-transaction", "--quick", "--routines", "--events", "--triggers", "--hex-blob")
	if s.Database == "" {
		return append(line, "--all-databases", "--add-drop-database")
	}
	return append(line, "--add-drop-database", "--databases", s.Database)
}

func (s database) mariaLoad() []string { return s.maria("mariadb", "--batch") }

func (s database) maria(program string, args ...string) []string {
	host, port := s.address()
	line := []string{program, "--protocol=tcp", "--host=" + host, "--port=" + port, "--user=" + otherwise(s.User, "root")}
	return s.withSecret("MYSQL_PWD", append(line, args...))
}

// withSecret gives a command the password in its environment. env replaces itself by the command at once, so that
// the password is in an argument list only while the process starts.
func (s database) withSecret(variable string, args []string) []string {
	if s.Password == "" {
		return args
	}
	return append([]string{"env", variable + "=" + s.Password}, args...)
}
