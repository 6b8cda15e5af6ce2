// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package backup knows what lies in a backup directory: the backups that
// niodooctl makes and those of the manual's two scripts, and which of them are
// whole. niodooctl writes with it; the exporter's collector reads with it.
//
// # Files
//
// A backup of ours consists of up to three files, all below one directory:
//
//	niodoo_backup_20261124_020000.tar.zst        the archive; .tar.zst.age if encrypted
//	niodoo_backup_20261124_020000.manifest.json  what is in it, written last: the commit mark
//	niodoo_backup_20261124_020000.checks.json    what was done with it since
//
// The archive is placed first and the manifest after it; they are deleted in
// the reverse order. An archive without a manifest, or with one that names
// another length, is no backup. The manifest never changes. What is found out
// later - copied off the host, verified, restored in a drill - is in the third
// file, which is replaced as a whole each time: a manifest rewritten every day
// could be lost every day, and with it the backup.
//
// Names begin with a dot while they are under construction.
//
// # Manifest
//
// The manifest is one JSON document in a fixed layout: the summary, then the
// entries one a line, then the checksum of every byte before its own line. A
// reader finds any flipped byte, and needs no more memory than the longest
// line however many entries there are. The archive's last member, MANIFEST.json,
// has the same layout without the field archive, which cannot be known inside.
// Fields may be added within a version; a reader ignores those it does not know.
package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
)

// Version is the version of the manifest and of the checks that this package writes.
const Version = 1

// Limits of a manifest, in bytes: a larger one is refused by the writer and by the reader.
const (
	MaxManifestSize = 256 << 20
	maxSummarySize  = 1 << 20
	maxLineSize     = 64 << 10
	maxListed       = 1000 // elements of a list or a map in the summary
)

var (
	// ErrDamaged says that a file is not what was written: truncated, flipped or edited.
	ErrDamaged = errors.New("damaged")
	// ErrVersion says that a file was written by a newer program.
	ErrVersion = errors.New("unknown version")
	// ErrTooLarge says that a file is over the limits.
	ErrTooLarge = errors.New("too large")
	// ErrFuture says that a backup was made by a wrong clock, or read by one.
	ErrFuture = errors.New("from the future")
)

// Class is the retention class of a backup.
type Class string

// The classes; each is a whole backup.
const (
	Daily   Class = "daily"
	Full    Class = "full"
	Archive Class = "archive"
)

// Classes lists the closed set.
var Classes = []Class{Daily, Full, Archive}

// Summary is the manifest without its entries.
type Summary struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	Class   Class  `json:"class"`
	Host    string `json:"host,omitempty"`
	// Started is the moment whose data the backup holds; Seconds is how long it took.
	Started time.Time `json:"started"`
	Seconds float64   `json:"duration_seconds"`
	// ContentBytes is the size of all entries together, before compression.
	ContentBytes int64 `json:"content_bytes"`
	// Archive is nil inside the archive itself.
	Archive *ArchiveFile `json:"archive,omitempty"`
	// Encryption is nil for an archive that anyone can read.
	Encryption *Encryption `json:"encryption,omitempty"`
	// Rows counts what is restored row by row: by source ("postgresql", "redis",
	// "qdrant") and by table, database or collection in it.
	Rows map[string]map[string]Rows `json:"rows,omitempty"`
	// Collections are those of Qdrant whose snapshots are in the backup.
	Collections map[string]Collection `json:"collections,omitempty"`
	// Versions of the programs and servers involved; Images and Models are digests by name.
	Versions map[string]string `json:"versions,omitempty"`
	Images   map[string]string `json:"images,omitempty"`
	Models   map[string]string `json:"models,omitempty"`
	Commit   string            `json:"commit,omitempty"`
	// Skipped is what is not in the backup although it was to be.
	Skipped  []Skipped `json:"skipped,omitempty"`
	Warnings []string  `json:"warnings,omitempty"`
}

// ArchiveFile is the archive as it is stored, encryption included.
type ArchiveFile struct {
	File   string `json:"file"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Encryption says how the archive was encrypted and to whom.
type Encryption struct {
	Method     string   `json:"method"`
	Recipients []string `json:"recipients"`
}

// Rows is the content of a table: how many rows, and a sum over them that does
// not depend on their order ("" where none was taken).
type Rows struct {
	Count int64  `json:"count"`
	Sum   string `json:"sum,omitempty"`
}

// Collection is what Qdrant said of a collection and of the snapshot of it.
type Collection struct {
	// Vectors are the dimensions of its vectors by their name; "" is the one
	// without. Sparse vectors have none.
	Vectors map[string]int64 `json:"vectors,omitempty"`
	// SHA256 is the snapshot's, "" where Qdrant gave none.
	SHA256 string `json:"snapshot_sha256,omitempty"`
}

// Skipped is something left out, and why.
type Skipped struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Entry is one member of the archive.
type Entry struct {
	Name string `json:"name"`
	// NameBase64 is the exact name where Name cannot be: it is not UTF-8.
	NameBase64 string `json:"name_base64,omitempty"`
	Bytes      int64  `json:"bytes"`
	SHA256     string `json:"sha256"`
	// Note says what is odd about it, such as "grew while it was read".
	Note string `json:"note,omitempty"`
}

const stampLayout = "20060102_150405"

var (
	nameRE = regexp.MustCompile(`^niodoo_backup_(\d{8}_\d{6})$`)
	sumRE  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Name returns the name of a backup of ours that was started at t.
func Name(t time.Time) string { return "niodoo_backup_" + t.UTC().Format(stampLayout) }

// The files of the backup of a name.
func (s Summary) archiveNames() []string {
	return []string{s.Name + archiveSuffix, s.Name + encryptedSuffix}
}

const (
	archiveSuffix   = ".tar.zst"
	encryptedSuffix = ".tar.zst.age"
	manifestSuffix  = ".manifest.json"
	checksSuffix    = ".checks.json"
)

// ManifestPath returns the path of a backup's manifest.
func ManifestPath(dir, name string) string { return filepath.Join(dir, name+manifestSuffix) }

// ArchivePath returns the path of a backup's archive.
func ArchivePath(dir, name string, encrypted bool) string {
	if encrypted {
		return filepath.Join(dir, name+encryptedSuffix)
	}
	return filepath.Join(dir, name+archiveSuffix)
}

// validate reports what is wrong with a summary.
func (s Summary) validate() error {
	m := nameRE.FindStringSubmatch(s.Name)
	if m == nil {
		return fmt.Errorf("%.100q is not the name of a backup", s.Name)
	}
	if _, err := time.Parse(stampLayout, m[1]); err != nil {
		return fmt.Errorf("%q is not the name of a backup", s.Name)
	}
	switch {
	case !slices.Contains(Classes, s.Class):
		return fmt.Errorf("the class %.100q is unknown", s.Class)
	case s.Started.Unix() <= 0, s.Started.UTC().Year() > 9999:
		return errors.New("the time it was started is missing or none")
	case !(s.Seconds >= 0):
		return errors.New("the duration is not a time")
	case s.ContentBytes < 0:
		return errors.New("the content's size is negative")
	case s.Encryption != nil && s.Encryption.Method == "":
		return errors.New("the method of encryption is missing")
	case len(s.Skipped) > maxListed, len(s.Warnings) > maxListed, len(s.Rows) > maxListed:
		return fmt.Errorf("a list is longer than %d", maxListed)
	}
	if a := s.Archive; a != nil {
		switch {
		case !slices.Contains(s.archiveNames(), a.File):
			return fmt.Errorf("the archive's name %.100q does not belong to %s", a.File, s.Name)
		case strings.HasSuffix(a.File, encryptedSuffix) != (s.Encryption != nil):
			return fmt.Errorf("the archive's name %s and its encryption do not agree", a.File)
		case a.Bytes <= 0:
			return errors.New("the archive's length is missing")
		case !sumRE.MatchString(a.SHA256):
			return errors.New("the archive's SHA-256 is missing")
		}
	}
	for _, tables := range s.Rows {
		for _, table := range slices.Sorted(maps.Keys(tables)) {
			if tables[table].Count < 0 {
				return fmt.Errorf("the table %.100q has a negative number of rows", table)
			}
		}
	}
	return nil
}

func (e Entry) validate() error {
	switch {
	case e.Name == "":
		return errors.New("an entry has no name")
	case e.Bytes < 0:
		return fmt.Errorf("the entry %.100q has a negative size", e.Name)
	case !sumRE.MatchString(e.SHA256):
		return fmt.Errorf("the entry %.100q has no SHA-256", e.Name)
	}
	return nil
}

const (
	entriesLine   = `  "entries": [`
	entriesEnd    = `  ],`
	checksumStart = `  "checksum": "sha256:`
	checksumEnd   = "\"\n}\n"
)

// Encode writes a manifest. It sets the version.
func Encode(w io.Writer, s Summary, entries iter.Seq[Entry]) error {
	return encodeLines(w, s, entryLines(entries))
}

// encodeLines is Encode with entries that are lines already.
func encodeLines(w io.Writer, s Summary, lines iter.Seq2[[]byte, error]) error {
	s.Version = Version
	s.Started = s.Started.UTC()
	if err := s.validate(); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	head, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if len(head) > maxSummarySize {
		return fmt.Errorf("manifest: the summary is %w: %d bytes", ErrTooLarge, len(head))
	}
	sealed := newSealer(w)
	if _, err := fmt.Fprintf(sealed, "%s,\n%s\n", bytes.TrimSuffix(head, []byte("\n}")), entriesLine); err != nil {
		return err
	}
	separator := ""
	for line, err := range lines {
		if err != nil {
			return err
		}
		if sealed.written+int64(len(line)) > MaxManifestSize-maxLineSize {
			return fmt.Errorf("manifest: the entry %.100q makes it %w", line, ErrTooLarge)
		}
		if _, err := fmt.Fprintf(sealed, "%s    %s", separator, line); err != nil {
			return err
		}
		separator = ",\n"
	}
	if separator != "" {
		separator = "\n"
	}
	if _, err := fmt.Fprintf(sealed, "%s%s\n", separator, entriesEnd); err != nil {
		return err
	}
	return sealed.close()
}

// sealer writes a document whose last member is the checksum of what stands before it.
type sealer struct {
	w       *bufio.Writer
	sum     hash.Hash
	written int64
}

func newSealer(w io.Writer) *sealer { return &sealer{w: bufio.NewWriter(w), sum: sha256.New()} }

func (s *sealer) Write(p []byte) (int, error) {
	s.sum.Write(p)
	s.written += int64(len(p))
	return s.w.Write(p)
}

func (s *sealer) close() error {
	if _, err := fmt.Fprintf(s.w, "%s%x%s", checksumStart, s.sum.Sum(nil), checksumEnd); err != nil {
		return err
	}
	return s.w.Flush()
}

// Decode reads a manifest to its end, calls entry for each entry unless it is
// nil, and returns the summary. A manifest that is not exactly what [Encode]
// wrote is [ErrDamaged]; entries seen before that are not to be trusted.
func Decode(r io.Reader, entry func(Entry) error) (Summary, error) {
	var s Summary
	lines := newLineReader(io.LimitReader(r, MaxManifestSize+1))
	var head []byte
	for {
		line, err := lines.next()
		if err != nil {
			return s, err
		}
		if string(line) == entriesLine {
			break
		}
		if len(head)+len(line) > maxSummarySize+maxLineSize {
			return s, fmt.Errorf("manifest: the summary is %w", ErrTooLarge)
		}
		head = append(append(head, line...), '\n')
	}
	// The version comes before all else: of a newer one nothing is known.
	var v struct {
		Version int `json:"version"`
	}
	head = append(bytes.TrimSuffix(head, []byte(",\n")), '}')
	if err := json.Unmarshal(head, &v); err != nil {
		return s, fmt.Errorf("manifest: %w: %w", ErrDamaged, err)
	}
	if err := checkVersion("manifest", v.Version); err != nil {
		return s, err
	}
	for {
		line, err := lines.next()
		if err != nil {
			return s, err
		}
		if string(line) == entriesEnd {
			break
		}
		if entry == nil {
			continue
		}
		var e Entry
		if err := json.Unmarshal(bytes.TrimSuffix(line, []byte(",")), &e); err != nil {
			return s, fmt.Errorf("manifest: %w: an entry: %w", ErrDamaged, err)
		}
		if err := e.validate(); err != nil {
			return s, fmt.Errorf("manifest: %w: %w", ErrDamaged, err)
		}
		if err := entry(e); err != nil {
			return s, err
		}
	}
	if err := lines.seal(); err != nil {
		return s, err
	}
	if err := json.Unmarshal(head, &s); err != nil {
		return Summary{}, fmt.Errorf("manifest: %w: %w", ErrDamaged, err)
	}
	if err := s.validate(); err != nil {
		return Summary{}, fmt.Errorf("manifest: %w: %w", ErrDamaged, err)
	}
	return s, nil
}

func checkVersion(what string, v int) error {
	switch {
	case v > Version:
		return fmt.Errorf("%s: %w %d, written by a newer niodooctl; this program knows %d", what, ErrVersion, v, Version)
	case v < 1:
		return fmt.Errorf("%s: %w: it has no version", what, ErrDamaged)
	}
	return nil
}

// lineReader reads lines of bounded length and sums them up.
type lineReader struct {
	r    *bufio.Reader
	sum  hash.Hash
	read int64
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, maxLineSize), sum: sha256.New()}
}

// next returns the next line without its end; it is valid until the next call.
func (l *lineReader) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	l.read += int64(len(line))
	switch {
	case l.read > MaxManifestSize:
		return nil, fmt.Errorf("manifest: %w: more than %d bytes", ErrTooLarge, int64(MaxManifestSize))
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("manifest: a line is %w", ErrTooLarge)
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("manifest: %w: it ends too early", ErrDamaged)
	case err != nil:
		return nil, err
	}
	l.sum.Write(line)
	return line[:len(line)-1], nil
}

// seal reads the rest of the file, which must be the checksum of what came before.
func (l *lineReader) seal() error {
	want := checksumStart + hex.EncodeToString(l.sum.Sum(nil)) + checksumEnd
	rest, err := io.ReadAll(io.LimitReader(l.r, int64(len(want))+1))
	if err != nil {
		return err
	}
	if string(rest) != want {
		return fmt.Errorf("manifest: %w: its checksum is wrong", ErrDamaged)
	}
	return nil
}

// WriteManifest commits a backup: its archive must be in place. A manifest
// that is there already stays, and the error is [os.ErrExist].
func WriteManifest(dir string, s Summary, entries iter.Seq[Entry]) error {
	return writeManifest(dir, s, entryLines(entries))
}

func writeManifest(dir string, s Summary, lines iter.Seq2[[]byte, error]) error {
	if s.Archive == nil {
		return errors.New("manifest: the archive is missing")
	}
	return atomicfile.Create(ManifestPath(dir, s.Name), 0o644, func(w io.Writer) error { return encodeLines(w, s, lines) })
}

// ReadManifest reads the manifest of a backup; entry may be nil (see [Decode]).
func ReadManifest(dir, name string, entry func(Entry) error) (Summary, error) {
	path := ManifestPath(dir, name)
	f, size, err := atomicfile.Open(path)
	if err != nil {
		return Summary{}, err
	}
	defer f.Close()
	if size > MaxManifestSize {
		return Summary{}, fmt.Errorf("%s: %w: %d bytes", path, ErrTooLarge, size)
	}
	s, err := Decode(f, entry)
	switch {
	case err != nil:
		return s, fmt.Errorf("%s: %w", path, err)
	case s.Name != name:
		return s, fmt.Errorf("%s: %w: it is the manifest of %s", path, ErrDamaged, s.Name)
	case s.Archive == nil:
		return s, fmt.Errorf("%s: %w: it does not name the archive", path, ErrDamaged)
	}
	return s, nil
}

// Delete removes all files of a backup of ours: the manifest first, so that
// what a crash leaves is no backup. The caller holds the lock of the directory.
func Delete(dir, name string) error {
	for _, path := range []string{ManifestPath(dir, name), ChecksPath(dir, name), ArchivePath(dir, name, false), ArchivePath(dir, name, true)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := atomicfile.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}
