package agent

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"holdfast/internal/link"
	"holdfast/internal/problem"
)

// newer decides whether an offered setting takes the place of the held one. The same document may come again after a
// boot, now for this boot; an older one never comes back.
func newer(held, offered link.Setting) bool {
	return offered.Generation > held.Generation || offered.Generation == held.Generation && offered.BootID != held.BootID
}

// PutSetting keeps a setting if it is newer than the one held, together with the epochs that leases tell of. taken is
// false, without an error, for the very document that is held; an older one is refused.
func (j *Journal) PutSetting(ctx context.Context, offered link.Setting) (taken bool, err error) {
	epochs, err := epochsIn(offered)
	if err != nil {
		return false, err
	}
	err = j.tx(ctx, "setting", func(tx *sql.Tx) error {
		held, err := getSetting(ctx, tx, offered.Kind)
		if err != nil {
			return err
		}
		if offered.Generation < held.Generation {
			return problem.New(problem.Stale, "", "setting %s of generation %d was not taken: generation %d is in force", offered.Kind, offered.Generation, held.Generation)
		}
		if taken = newer(held, offered); !taken {
			return nil
		}
		for instance, epoch := range epochs {
			if err := raiseEpoch(ctx, tx, instance, epoch); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO settings (kind, generation, boot_id, body) VALUES (?, ?, ?, ?)
			ON CONFLICT (kind) DO UPDATE SET generation = excluded.generation, boot_id = excluded.boot_id, body = excluded.body`,
			offered.Kind, offered.Generation, offered.BootID, string(offered.Body))
		return err
	})
	return taken && err == nil, err
}

func epochsIn(setting link.Setting) (map[string]int64, error) {
	if setting.Kind != link.SettingLeases {
		return nil, nil
	}
	var leases link.LeasesSetting
	if err := json.Unmarshal(setting.Body, &leases); err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "", "setting leases cannot be read")
	}
	epochs := map[string]int64{}
	for instance, lease := range leases.Leases {
		epochs[instance] = lease.Epoch
	}
	return epochs, nil
}

func getSetting(ctx context.Context, tx *sql.Tx, kind link.SettingKind) (held link.Setting, err error) {
	held.Kind = kind
	var body string
	err = tx.QueryRowContext(ctx, "SELECT generation, boot_id, body FROM settings WHERE kind = ?", kind).Scan(&held.Generation, &held.BootID, &body)
	if errors.Is(err, sql.ErrNoRows) {
		return held, nil
	}
	held.Body = []byte(body)
	return held, err
}

// Setting gives the setting of a kind that is in force; its generation is 0 when there is none.
func (j *Journal) Setting(ctx context.Context, kind link.SettingKind) (held link.Setting, err error) {
	err = j.tx(ctx, "read setting", func(tx *sql.Tx) error {
		held, err = getSetting(ctx, tx, kind)
		return err
	})
	if err != nil {
		return held, fmt.Errorf("read setting %s: %w", kind, err)
	}
	return held, nil
}
