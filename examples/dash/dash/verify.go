package dash

import (
	"context"
	"fmt"

	"go.mongodb.org/mongo-driver/bson"
)

// Verified is the outcome of Verify.
type Verified struct {
	Facts       int64       `json:"facts"`
	Dashboards  int         `json:"dashboards"`
	Files       int         `json:"files"` // named by dashboards, each once
	Connections int         `json:"connections"`
	Migrations  []Migration `json:"migrations"`
	Problems    []string    `json:"problems"`
}

// Verify reads every document and every file that one names, and names each that is not what it was when it was
// acknowledged.
func (s *Store) Verify(ctx context.Context) (Verified, error) {
	v := Verified{Problems: []string{}}
	var err error
	if v.Migrations, err = s.Migrations(ctx); err != nil {
		return v, err
	}
	if len(v.Migrations) != s.release.schema() {
		v.Problems = append(v.Problems, fmt.Sprintf("%d migrations are recorded, release %s has %d", len(v.Migrations), s.release.Version, s.release.schema()))
	}
	if v.Facts, err = s.facts().CountDocuments(ctx, bson.D{}); err != nil {
		return v, fmt.Errorf("count facts: %w", err)
	}
	if err := s.verifyDashboards(ctx, &v); err != nil {
		return v, err
	}
	return v, s.verifyConnections(ctx, &v)
}

func (s *Store) verifyDashboards(ctx context.Context, v *Verified) error {
	seen := map[string]bool{}
	return s.eachDashboard(ctx, bson.D{}, func(d Dashboard) error {
		v.Dashboards++
		if digest([]byte(d.Note)) != d.NoteSum {
			v.Problems = append(v.Problems, "dashboard "+d.ID+": its note is not what was stored")
		}
		for _, file := range []*File{d.Picture, d.Tile} {
			if file == nil || seen[file.SHA256] {
				continue
			}
			seen[file.SHA256] = true
			v.Files++
			if err := s.Folder.Check(*file); err != nil {
				v.Problems = append(v.Problems, "dashboard "+d.ID+": "+err.Error())
			}
		}
		return nil
	})
}

func (s *Store) verifyConnections(ctx context.Context, v *Verified) error {
	rows, err := s.connections().Find(ctx, bson.D{})
	if err != nil {
		return fmt.Errorf("read connections: %w", err)
	}
	var all []Connection
	if err := rows.All(ctx, &all); err != nil {
		return fmt.Errorf("read connections: %w", err)
	}
	for _, c := range all {
		v.Connections++
		if _, err := s.sealer.open(c.ID, c.Sealed); err != nil {
			v.Problems = append(v.Problems, "connection "+c.ID+": "+err.Error())
		}
	}
	return nil
}
