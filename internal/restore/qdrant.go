// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/niodoo/niodoo_exporter/internal/backup/source"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/endpoint"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// A snapshot of a collection is a tar of a directory, as Qdrant's recovery reads
// it (lib/collection/src/collection/snapshots.rs of its source).
const (
	snapshotConfig   = "config.json"
	snapshotVersion  = "version.info"
	snapshotKeys     = "shard_key_mapping.json"
	shardConfig      = "shard_config.json"
	shardSegments    = "segments"
	maxSnapshotFile  = 16 << 20
	tarEnd           = 1024 // zeros that every tar ends with
	shardingByCustom = "custom"
)

// snapshotLayout is what a snapshot holds.
type snapshotLayout struct {
	config source.CollectionConfig
	sha256 string
	shards int
}

// readSnapshot reads a snapshot to its end. The error is that it is not what
// Qdrant could recover a collection from.
func readSnapshot(r io.Reader) (snapshotLayout, error) {
	l := snapshotLayout{}
	sum := sha256.New()
	var end lastBytes
	r = io.TeeReader(r, io.MultiWriter(sum, &end))
	files := map[string][]byte{}
	described, filled := map[string]bool{}, map[string]bool{} // shards
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return l, fmt.Errorf("it is no whole tar: %w", err)
		}
		name := path.Clean(h.Name)
		shard, rest, inside := strings.Cut(name, "/")
		switch {
		case name == snapshotConfig, name == snapshotVersion, name == snapshotKeys:
			if files[name], err = io.ReadAll(io.LimitReader(t, maxSnapshotFile)); err != nil {
				return l, fmt.Errorf("%s in it cannot be read: %w", name, err)
			}
		case inside && rest == shardConfig:
			described[shard] = true
		case inside && strings.HasPrefix(rest, shardSegments+"/"):
			filled[shard] = true
		}
		if _, err := io.Copy(io.Discard, t); err != nil {
			return l, fmt.Errorf("%q in it cannot be read: %w", h.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return l, err
	}
	if !bytes.Equal(end, make([]byte, tarEnd)) {
		return l, errors.New("the tar ends before its end")
	}
	l.sha256 = hex.EncodeToString(sum.Sum(nil))
	for _, name := range []string{snapshotConfig, snapshotVersion} {
		if len(files[name]) == 0 {
			return l, fmt.Errorf("%s is missing in it", name)
		}
	}
	if err := json.Unmarshal(files[snapshotConfig], &l.config); err != nil {
		return l, fmt.Errorf("%s in it cannot be read: %w", snapshotConfig, err)
	}
	ids, err := shardIDs(l.config, files[snapshotKeys])
	if err != nil {
		return l, err
	}
	for _, id := range ids {
		switch name := strconv.Itoa(id); {
		case !described[name]:
			return l, fmt.Errorf("%s/%s is missing in it", name, shardConfig)
		case !filled[name]:
			return l, fmt.Errorf("the shard %s has no segments in it", name)
		}
	}
	l.shards = len(ids)
	return l, nil
}

// lastBytes keeps the last bytes written to it.
type lastBytes []byte

func (l *lastBytes) Write(p []byte) (int, error) {
	*l = append(*l, p[max(0, len(p)-tarEnd):]...)
	*l = slices.Delete(*l, 0, max(0, len(*l)-tarEnd))
	return len(p), nil
}

// shardIDs returns the shards that a collection has: numbered, or those that the
// mapping of the user's keys names.
func shardIDs(c source.CollectionConfig, mapping []byte) ([]int, error) {
	if c.Params.Sharding != shardingByCustom {
		n := cmp.Or(c.Params.Shards, 1)
		if n < 1 || n > 1<<16 {
			return nil, fmt.Errorf("%s in it says that there are %d shards", snapshotConfig, n)
		}
		ids := make([]int, n)
		for i := range ids {
			ids[i] = i
		}
		return ids, nil
	}
	var ids []int
	var old map[string][]int
	var byKey []struct {
		Shards []int `json:"shard_ids"`
	}
	switch {
	case json.Unmarshal(mapping, &old) == nil:
		for _, of := range old {
			ids = append(ids, of...)
		}
	case json.Unmarshal(mapping, &byKey) == nil:
		for _, of := range byKey {
			ids = append(ids, of.Shards...)
		}
	default:
		return nil, fmt.Errorf("%s in it is missing or cannot be read", snapshotKeys)
	}
	slices.Sort(ids)
	return ids, nil
}

// qdrant proves the snapshots: always that they are what Qdrant made and could
// be recovered, and, where its program is on this machine, that they are.
func (d *drill) qdrant(ctx context.Context) error {
	before := len(d.report.Differences)
	for _, member := range d.snapshots.names {
		if err := d.snapshot(member); err != nil {
			return err
		}
	}
	if len(d.report.Differences) > before {
		return nil // no server has to be asked
	}
	server, err := d.startQdrant(ctx)
	if err != nil || server == nil {
		return err
	}
	defer server.Stop()
	client, err := source.OpenQdrant(config.Qdrant{HTTP: config.HTTP{URL: server.URL}, APIKeyFile: config.SecretFile(server.KeyFile)})
	if err != nil {
		return err
	}
	version, err := client.Version(ctx)
	if err != nil {
		return err
	}
	made := d.summary.Versions[Qdrant]
	ours, theirs := minorOf(version), minorOf(made)
	const mend = "%s on this machine is of version %s, and they were made by %s: put the program of that version there"
	// A snapshot is for the same minor version and the next.
	if made != "" && (ours[0] != theirs[0] || ours[1] < theirs[1] || ours[1] > theirs[1]+1) {
		d.notRecovered(mend, d.cfg.Backup.QdrantProgram, version, made)
		return nil
	}
	for _, member := range d.snapshots.names {
		switch err := d.recover(ctx, client, member); {
		case errors.Is(err, ErrRestore) && ours != theirs:
			d.notRecovered(mend+" (%v)", d.cfg.Backup.QdrantProgram, version, made, err)
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

// notRecovered says what is proven of the snapshots without a server, and why
// there is none.
func (d *drill) notRecovered(format string, args ...any) {
	d.report.NotDrilled = append(d.report.NotDrilled, fmt.Sprintf("Qdrant: its %d snapshots are whole, and have every shard that their configuration names; "+
		"no Qdrant has recovered them: ", len(d.snapshots.names))+fmt.Sprintf(format, args...))
}

// startQdrant starts a server, nil if it cannot be here, which is noted.
func (d *drill) startQdrant(ctx context.Context) (*localserver.Qdrant, error) {
	server, err := localserver.StartQdrant(ctx, localserver.QdrantOptions{Program: d.cfg.Backup.QdrantProgram, Scratch: d.dir})
	if errors.Is(err, localserver.ErrNotInstalled) {
		d.notRecovered("%v, of version %s or the next minor one, or name it in backup.qdrant_program", err, cmp.Or(d.summary.Versions[Qdrant], "unknown"))
		return nil, nil
	}
	return server, err
}

// snapshot reads one and compares it with what Qdrant said of it.
func (d *drill) snapshot(member string) error {
	f, err := os.Open(d.snapshots.path(member))
	if err != nil {
		return err
	}
	defer f.Close()
	name := collectionOf(member)
	l, err := readSnapshot(f)
	if _, ok := errors.AsType[*fs.PathError](err); ok { // it is the disk's fault
		return err
	}
	if err != nil {
		d.report.differ("Qdrant's snapshot of %s is none: %v", name, err)
		return nil
	}
	d.report.Snapshots++
	want, known := d.summary.Collections[name]
	switch {
	case !known:
		d.report.note("what Qdrant said of its collection %s was not noted", name)
	case want.SHA256 != "" && want.SHA256 != l.sha256:
		d.report.differ("Qdrant's snapshot of %s has another SHA-256 than Qdrant gave for it", name)
	case !maps.Equal(want.Vectors, l.config.Params.Vectors):
		d.report.differ("Qdrant's snapshot of %s has vectors of %s and the collection had %s", name, dimensions(l.config.Params.Vectors), dimensions(want.Vectors))
	}
	return nil
}

// recover has a server recover a snapshot and compares what it has then.
func (d *drill) recover(ctx context.Context, client *source.Qdrant, member string) error {
	name := collectionOf(member)
	if err := client.Upload(ctx, name, d.snapshots.path(member)); err != nil {
		if _, ok := errors.AsType[*endpoint.StatusError](err); !ok || surroundings.MatchString(err.Error()) {
			return err
		}
		return fmt.Errorf("%w: the snapshot of %s: %w", ErrRestore, name, err)
	}
	vectors, err := client.Vectors(ctx, name)
	if err != nil {
		return err
	}
	points, exists, err := client.Points(ctx, name)
	if err != nil {
		return err
	}
	d.report.Points += points
	if !exists {
		d.report.differ("Qdrant has recovered a snapshot, and there is no collection %s", name)
		return nil
	}
	if want, known := d.summary.Collections[name]; known && !maps.Equal(want.Vectors, vectors) {
		d.report.differ("Qdrant's collection %s has vectors of %s and had %s", name, dimensions(vectors), dimensions(want.Vectors))
	}
	switch want, known := d.summary.Rows[Qdrant][name]; {
	case !known:
		d.report.note("Qdrant's collection %s has %d points; how many it had is not known: it was written to when it was backed up", name, points)
	case points != want.Count:
		d.report.differ("Qdrant's collection %s has %d points and had %d", name, points, want.Count)
	}
	return nil
}

// dimensions writes the vectors of a collection for people.
func dimensions(v map[string]int64) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(v)) {
		text := strconv.FormatInt(v[name], 10)
		if name != "" {
			text = name + " " + text
		}
		all = append(all, text)
	}
	return cmp.Or(strings.Join(all, ", "), "no dense ones")
}

// minorOf returns the two first numbers of a version.
func minorOf(version string) (n [2]int) {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	n[0], _ = strconv.Atoi(major)
	n[1], _ = strconv.Atoi(minor)
	return n
}
