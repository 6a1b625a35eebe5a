-- +goose Up
-- home_site and home_node: from where an instance was taken by a recovery or a restore, which no fleet file says. It stays
-- where it is until somebody says otherwise; both are empty for one that is where a plan has put it.
ALTER TABLE placements ADD COLUMN home_site TEXT NOT NULL DEFAULT '';
ALTER TABLE placements ADD COLUMN home_node TEXT NOT NULL DEFAULT '';
