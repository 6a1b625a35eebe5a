package dash

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
)

// Migration is the record that the data was brought to a form.
type Migration struct {
	Number  int       `json:"number" bson:"_id"`
	About   string    `json:"about" bson:"about"`
	Release string    `json:"release" bson:"release"` // the version that did it
	Ended   time.Time `json:"ended" bson:"ended"`
}

// migration brings the data from one form to the next. It may be run again after it was cut off, and it looks before
// it changes: where it refuses, nothing was changed.
type migration struct {
	about string
	do    func(context.Context) error
}

// migrations lists what the release can do, by number. The conversion of what v1 stored is in v2 alone: later releases
// would have to carry it for ever.
func (s *Store) steps() map[int]migration {
	return map[int]migration{
		1: {"index the facts by section", s.indexFacts},
		2: {"let a dashboard show several sections", s.splitSections},
		3: {"give each dashboard an address", s.giveSlugs},
		4: {"let no two dashboards have one address", s.uniqueSlugs},
	}
}

// Migrate brings the data to the form of the release and records each step. It refuses data of a newer release, of one
// from which there is no way, and of another secret.
func (s *Store) Migrate(ctx context.Context) ([]Migration, error) {
	done, err := s.Migrations(ctx)
	if err != nil {
		return nil, err
	}
	have := 0
	if len(done) > 0 {
		have = done[len(done)-1].Number
	}
	if err := s.reachable(have); err != nil {
		return nil, err
	}
	if err := s.checkSecret(ctx); err != nil {
		return nil, err
	}
	for number := have + 1; number <= s.release.schema(); number++ {
		made, err := s.step(ctx, number)
		if err != nil {
			return done, err
		}
		done = append(done, made)
	}
	return done, s.index(ctx)
}

// index makes the indexes of the release unless they are there. Every start does it, as a load may have left them out.
func (s *Store) index(ctx context.Context) error {
	if err := s.indexFacts(ctx); err != nil {
		return fmt.Errorf("index facts: %w", err)
	}
	if s.release.schema() < 4 {
		return nil
	}
	if err := s.uniqueSlugs(ctx); err != nil {
		return fmt.Errorf("index dashboards: %w", err)
	}
	return nil
}

// reachable tells whether this release knows a way from a form of the data. 0 is no data at all.
func (s *Store) reachable(have int) error {
	switch want := s.release.schema(); {
	case have > want:
		return fmt.Errorf("the data has form %d, and release %s knows only %d: deploy the newer release, or restore a backup of this one", have, s.release.Version, want)
	case have == 1 && want > 2:
		return fmt.Errorf("the data has form 1, which only release v2 converts: deploy v2 before %s", s.release.Version)
	}
	return nil
}

func (s *Store) step(ctx context.Context, number int) (Migration, error) {
	m := s.steps()[number]
	if err := m.do(ctx); err != nil {
		return Migration{}, fmt.Errorf("migration %d (%s) not done: %w", number, m.about, err)
	}
	made := Migration{Number: number, About: m.about, Release: s.release.Version, Ended: time.Now().UTC().Truncate(time.Millisecond)}
	if _, err := s.migrations().InsertOne(ctx, made); err != nil && !mongo.IsDuplicateKeyError(err) {
		return Migration{}, fmt.Errorf("record migration %d: %w", number, err)
	}
	return made, nil
}

// Migrations lists what was done, in order.
func (s *Store) Migrations(ctx context.Context) ([]Migration, error) {
	rows, err := s.migrations().Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: 0}}}}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	all := []Migration{}
	if err := rows.All(ctx, &all); err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	return all, nil
}

// sealName is the connection that tells whether the secret is the one of the data.
const sealName = "dash"

func (s *Store) checkSecret(ctx context.Context) error {
	_, err := s.ConnectionSum(ctx, sealName)
	if errors.Is(err, ErrNotFound) {
		return s.PutConnection(ctx, sealName, []byte(sealName))
	}
	if err != nil {
		return fmt.Errorf("the data was sealed with another ENCRYPTION_SECRET: this is another instance's data, or another instance's secret: %w", err)
	}
	return nil
}

func (s *Store) indexFacts(ctx context.Context) error {
	_, err := s.facts().Indexes().CreateOne(ctx, mongo.IndexModel{Keys: bson.D{{Key: "section", Value: 1}}})
	return err
}

func (s *Store) splitSections(ctx context.Context) error {
	one := bson.D{{Key: "section", Value: bson.D{{Key: "$exists", Value: true}}}}
	return s.eachDashboard(ctx, one, func(d Dashboard) error {
		_, err := s.dashboards().UpdateOne(ctx, bson.D{{Key: "_id", Value: d.ID}}, bson.D{
			{Key: "$set", Value: bson.D{{Key: "sections", Value: []string{d.Section}}}},
			{Key: "$unset", Value: bson.D{{Key: "section", Value: ""}}},
		})
		return err
	})
}

func (s *Store) giveSlugs(ctx context.Context) error {
	return s.eachDashboard(ctx, bson.D{}, func(d Dashboard) error {
		_, err := s.dashboards().UpdateOne(ctx, bson.D{{Key: "_id", Value: d.ID}}, bson.D{{Key: "$set", Value: bson.D{{Key: "slug", Value: slug(d.Title)}}}})
		return err
	})
}

func (s *Store) uniqueSlugs(ctx context.Context) error {
	holder := map[string]string{} // slug -> id
	err := s.eachDashboard(ctx, bson.D{}, func(d Dashboard) error {
		if other, taken := holder[d.Slug]; taken {
			return fmt.Errorf("dashboards %s and %s have one address, %q: rename one of them in release v3", other, d.ID, d.Slug)
		}
		holder[d.Slug] = d.ID
		return nil
	})
	if err != nil {
		return err
	}
	_, err = s.dashboards().Indexes().CreateOne(ctx, mongo.IndexModel{Keys: bson.D{{Key: "slug", Value: 1}}, Options: options.Index().SetUnique(true)})
	return err
}

// AwaitForm waits until the data has the form of the release.
func (s *Store) AwaitForm(ctx context.Context) error {
	for {
		done, err := s.Migrations(ctx)
		if err != nil {
			return err
		}
		if len(done) > 0 && done[len(done)-1].Number == s.release.schema() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}
