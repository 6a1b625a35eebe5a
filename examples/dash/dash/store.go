package dash

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
)

// ErrNotFound is returned for what does not exist.
var ErrNotFound = errors.New("not found")

// ErrInvalid is returned for a document that cannot be taken.
var ErrInvalid = errors.New("invalid")

// Fact is one package.
type Fact struct {
	Name        string `json:"name" bson:"_id"`
	Version     string `json:"version" bson:"version"`
	Section     string `json:"section" bson:"section"`
	InstalledKB int64  `json:"installed_kb" bson:"installed_kb"`
	Description string `json:"description" bson:"description"`
}

// Dashboard shows facts of sections. Section is set until release v1, Sections from v2 on, Slug from v3 on.
type Dashboard struct {
	ID       string    `json:"id" bson:"_id"`
	Title    string    `json:"title" bson:"title"`
	Section  string    `json:"section,omitempty" bson:"section,omitempty"`
	Sections []string  `json:"sections,omitempty" bson:"sections,omitempty"`
	Slug     string    `json:"slug,omitempty" bson:"slug,omitempty"`
	Note     string    `json:"note" bson:"note"`
	NoteSum  string    `json:"note_sha256" bson:"note_sha256"`
	Picture  *File     `json:"picture,omitempty" bson:"picture,omitempty"`
	Tile     *File     `json:"tile,omitempty" bson:"tile,omitempty"` // nil until a worker has drawn it
	Created  time.Time `json:"created" bson:"created"`
}

// Connection is a customer's credential for a source, sealed.
type Connection struct {
	ID     string `bson:"_id"`
	Sealed []byte `bson:"sealed"`
}

// Store is the data of one instance: a database and a folder.
type Store struct {
	Folder  Folder
	release Release
	client  *mongo.Client
	db      *mongo.Database
	sealer  sealer
}

// Options say where the data of an instance is.
type Options struct {
	Database string // "mongodb://HOST:PORT"
	Storage  string // folder
	Secret   string // at least 32 characters
	Release  Release
	Wait     time.Duration // for the database to answer; 0 = 30 s
}

// Open reaches the data. It refuses a secret that is too short before it asks anything of the database.
func Open(ctx context.Context, o Options) (*Store, error) {
	sealer, err := newSealer(o.Secret)
	if err != nil {
		return nil, err
	}
	folder, err := OpenFolder(o.Storage)
	if err != nil {
		return nil, err
	}
	if o.Wait == 0 {
		o.Wait = 30 * time.Second
	}
	client, err := mongo.Connect(ctx, options.Client().ApplyURI(o.Database).SetServerSelectionTimeout(o.Wait).SetDirect(true))
	if err != nil {
		return nil, fmt.Errorf("connect to database: %w", err)
	}
	s := &Store{Folder: folder, release: o.Release, client: client, db: client.Database("dash"), sealer: sealer}
	if err := client.Ping(ctx, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("reach database: %w", err), s.Close())
	}
	return s, nil
}

// Close ends the connections.
func (s *Store) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return s.client.Disconnect(ctx)
}

// Ping tells whether the database answers and the folder can be written.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.client.Ping(ctx, nil); err != nil {
		return fmt.Errorf("ping database: %w", err)
	}
	return s.Folder.Writable()
}

// Engine is what the database says of itself: "mongodb 7.0.14", or "ferretdb, as mongodb 7.0.42". A FerretDB that was
// built as a library does not tell its own version.
func (s *Store) Engine(ctx context.Context) (string, error) {
	var info struct {
		Version string `bson:"version"`
		Ferret  string `bson:"ferretdbVersion"`
	}
	if err := s.db.RunCommand(ctx, bson.D{{Key: "buildInfo", Value: 1}}).Decode(&info); err != nil {
		return "", fmt.Errorf("ask database for its version: %w", err)
	}
	if info.Ferret != "" {
		return "ferretdb, as mongodb " + info.Version, nil
	}
	return "mongodb " + info.Version, nil
}

func (s *Store) facts() *mongo.Collection       { return s.db.Collection("facts") }
func (s *Store) dashboards() *mongo.Collection  { return s.db.Collection("dashboards") }
func (s *Store) connections() *mongo.Collection { return s.db.Collection("connections") }
func (s *Store) migrations() *mongo.Collection  { return s.db.Collection("migrations") }

// PutFacts stores facts; one that is there is replaced.
func (s *Store) PutFacts(ctx context.Context, all []Fact) error {
	var writes []mongo.WriteModel
	for _, fact := range all {
		if fact.Name == "" || fact.Section == "" {
			return fmt.Errorf("fact %q: %w: it needs a name and a section", fact.Name, ErrInvalid)
		}
		writes = append(writes, mongo.NewReplaceOneModel().SetFilter(bson.D{{Key: "_id", Value: fact.Name}}).SetReplacement(fact).SetUpsert(true))
	}
	if len(writes) == 0 {
		return nil
	}
	if _, err := s.facts().BulkWrite(ctx, writes); err != nil {
		return fmt.Errorf("store facts: %w", err)
	}
	return nil
}

// SectionSize is what one section of the facts holds.
type SectionSize struct {
	Section  string `json:"section"`
	Packages int64  `json:"packages"`
	KB       int64  `json:"installed_kb"`
}

// Sections sums the facts up by section, by name. With names it gives only those. It adds here, not in the database:
// FerretDB 1.24 gives the second sum of a $group as 0.
func (s *Store) Sections(ctx context.Context, names ...string) ([]SectionSize, error) {
	filter := bson.D{}
	if len(names) > 0 {
		filter = bson.D{{Key: "section", Value: bson.D{{Key: "$in", Value: names}}}}
	}
	rows, err := s.facts().Find(ctx, filter, options.Find().SetProjection(bson.D{{Key: "section", Value: 1}, {Key: "installed_kb", Value: 1}}))
	if err != nil {
		return nil, fmt.Errorf("read facts: %w", err)
	}
	defer rows.Close(ctx)
	sums := map[string]SectionSize{}
	for rows.Next(ctx) {
		var fact Fact
		if err := rows.Decode(&fact); err != nil {
			return nil, fmt.Errorf("read facts: %w", err)
		}
		sum := sums[fact.Section]
		sums[fact.Section] = SectionSize{Section: fact.Section, Packages: sum.Packages + 1, KB: sum.KB + fact.InstalledKB}
	}
	all := make([]SectionSize, 0, len(sums))
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		all = append(all, sums[name])
	}
	return all, rows.Err()
}

var plainID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// PutDashboard stores a dashboard; its picture must have been stored before. The tile is drawn anew.
func (s *Store) PutDashboard(ctx context.Context, d Dashboard) (Dashboard, error) {
	d, err := s.formed(d)
	if err != nil {
		return d, err
	}
	if d.Picture != nil {
		if err := s.Folder.Check(*d.Picture); err != nil {
			return d, fmt.Errorf("picture of dashboard %s: %w: %w", d.ID, ErrInvalid, err)
		}
	}
	_, err = s.dashboards().ReplaceOne(ctx, bson.D{{Key: "_id", Value: d.ID}}, d, options.Replace().SetUpsert(true))
	if mongo.IsDuplicateKeyError(err) {
		return d, fmt.Errorf("dashboard %s: %w: another one has the title %q", d.ID, ErrInvalid, d.Title)
	}
	if err != nil {
		return d, fmt.Errorf("store dashboard %s: %w", d.ID, err)
	}
	return d, nil
}

// formed gives a dashboard the form of this release.
func (s *Store) formed(d Dashboard) (Dashboard, error) {
	if !plainID.MatchString(d.ID) || strings.TrimSpace(d.Title) == "" {
		return d, fmt.Errorf("dashboard %q: %w: it needs a plain id and a title", d.ID, ErrInvalid)
	}
	if s.release.hasSections() == (d.Section != "") || !s.release.hasSections() && len(d.Sections) > 0 {
		return d, fmt.Errorf("dashboard %s: %w: release %s does not take this form of sections", d.ID, ErrInvalid, s.release.Version)
	}
	d.Slug, d.Tile, d.NoteSum, d.Created = "", nil, digest([]byte(d.Note)), time.Now().UTC().Truncate(time.Millisecond)
	if s.release.hasSlugs() {
		d.Slug = slug(d.Title)
	}
	return d, nil
}

var notPlain = regexp.MustCompile(`[^a-z0-9]+`)

// slug is the part of an address that a title makes.
func slug(title string) string {
	return strings.Trim(notPlain.ReplaceAllString(strings.ToLower(title), "-"), "-")
}

// Dashboard reads one.
func (s *Store) Dashboard(ctx context.Context, id string) (Dashboard, error) {
	var d Dashboard
	err := s.dashboards().FindOne(ctx, bson.D{{Key: "_id", Value: id}}).Decode(&d)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return d, fmt.Errorf("dashboard %s: %w", id, ErrNotFound)
	}
	return d, err
}

// eachDashboard gives every dashboard of a filter to see, by id.
func (s *Store) eachDashboard(ctx context.Context, filter bson.D, see func(Dashboard) error) error {
	rows, err := s.dashboards().Find(ctx, filter, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return fmt.Errorf("read dashboards: %w", err)
	}
	defer rows.Close(ctx)
	for rows.Next(ctx) {
		var d Dashboard
		if err := rows.Decode(&d); err != nil {
			return fmt.Errorf("read dashboards: %w", err)
		}
		if err := see(d); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Dashboards lists all, by id, without their notes.
func (s *Store) Dashboards(ctx context.Context) ([]Dashboard, error) {
	all := []Dashboard{}
	err := s.eachDashboard(ctx, bson.D{}, func(d Dashboard) error {
		d.Note = ""
		all = append(all, d)
		return nil
	})
	return all, err
}

// Undrawn lists the ids of at most limit dashboards without a tile.
func (s *Store) Undrawn(ctx context.Context, limit int64) ([]string, error) {
	rows, err := s.dashboards().Find(ctx, bson.D{{Key: "tile", Value: bson.D{{Key: "$exists", Value: false}}}},
		options.Find().SetLimit(limit).SetProjection(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return nil, fmt.Errorf("find dashboards without a tile: %w", err)
	}
	var found []Dashboard
	if err := rows.All(ctx, &found); err != nil {
		return nil, fmt.Errorf("find dashboards without a tile: %w", err)
	}
	ids := make([]string, len(found))
	for i, d := range found {
		ids[i] = d.ID
	}
	return ids, nil
}

// SetTile gives a dashboard its tile, unless it was replaced since it was read.
func (s *Store) SetTile(ctx context.Context, d Dashboard, tile File) error {
	_, err := s.dashboards().UpdateOne(ctx, bson.D{{Key: "_id", Value: d.ID}, {Key: "created", Value: d.Created}},
		bson.D{{Key: "$set", Value: bson.D{{Key: "tile", Value: tile}}}})
	if err != nil {
		return fmt.Errorf("store tile of dashboard %s: %w", d.ID, err)
	}
	return nil
}

// PutConnection stores a credential, sealed.
func (s *Store) PutConnection(ctx context.Context, id string, text []byte) error {
	if !plainID.MatchString(id) {
		return fmt.Errorf("connection %q: %w: it needs a plain id", id, ErrInvalid)
	}
	_, err := s.connections().ReplaceOne(ctx, bson.D{{Key: "_id", Value: id}}, Connection{ID: id, Sealed: s.sealer.seal(id, text)}, options.Replace().SetUpsert(true))
	if err != nil {
		return fmt.Errorf("store connection %s: %w", id, err)
	}
	return nil
}

// ConnectionSum opens a credential and gives the hash of its text, which tells that it opens without telling it.
func (s *Store) ConnectionSum(ctx context.Context, id string) (string, error) {
	var c Connection
	err := s.connections().FindOne(ctx, bson.D{{Key: "_id", Value: id}}).Decode(&c)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return "", fmt.Errorf("connection %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return "", fmt.Errorf("read connection %s: %w", id, err)
	}
	text, err := s.sealer.open(id, c.Sealed)
	return digest(text), err
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
