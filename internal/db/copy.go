package db

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/uptrace/bun"
)

// Row is one row of a table as it is stored: texts, whole numbers and truths by column.
type Row map[string]any

// UnmarshalJSON keeps whole numbers whole: a float64 would lose the end of a time in microseconds.
func (r *Row) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var plain map[string]any
	if err := decoder.Decode(&plain); err != nil {
		return err
	}
	for column, value := range plain {
		number, ok := value.(json.Number)
		if !ok {
			continue
		}
		whole, err := number.Int64()
		if err != nil {
			return fmt.Errorf("column %s: %w", column, err)
		}
		plain[column] = whole
	}
	*r = plain
	return nil
}

// CopyOut reads every row of a table, in an order that depends on the rows alone.
func CopyOut(ctx context.Context, in bun.IDB, table string) ([]Row, error) {
	var plain []map[string]any
	if err := in.NewSelect().TableExpr("?", bun.Ident(table)).ColumnExpr("*").Scan(ctx, &plain); err != nil {
		return nil, fmt.Errorf("read table %s: %w", table, err)
	}
	rows := make([]Row, len(plain))
	for i, row := range plain {
		for column, value := range row {
			if raw, ok := value.([]byte); ok {
				row[column] = string(raw)
			}
		}
		rows[i] = row
	}
	key := func(r Row) string { return fmt.Sprint(map[string]any(r)) } // maps print sorted
	slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(key(a), key(b)) })
	return rows, nil
}

// CopyIn writes rows into a table. A column that a row lacks takes its default.
func CopyIn(ctx context.Context, tx Tx, table string, rows []Row) error {
	for _, row := range rows {
		columns := slices.Sorted(maps.Keys(row))
		args, values := []any{bun.Ident(table)}, make([]any, len(columns))
		for i, column := range columns {
			args, values[i] = append(args, bun.Ident(column)), row[column]
		}
		marks := strings.TrimSuffix(strings.Repeat("?, ", len(columns)), ", ")
		if _, err := tx.NewRaw("INSERT INTO ? ("+marks+") VALUES ("+marks+")", append(args, values...)...).Exec(ctx); err != nil {
			return fmt.Errorf("write table %s: %w", table, err)
		}
	}
	return nil
}
