// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
)

// random returns bytes that do not compress.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(b)
	return b
}

// member is one that a test puts into an archive.
type member struct {
	header  tar.Header
	content []byte
	stream  bool
}

func testMembers() []member {
	at := time.Unix(1_790_000_000, 123_456_789)
	file := func(name string, content []byte) member {
		return member{header: tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o640, Uid: 7, ModTime: at}, content: content}
	}
	stream := func(name string, content []byte) member {
		m := file(name, content)
		m.header.Size, m.stream = 0, true
		return m
	}
	return []member{
		file(ReadmeMember, []byte("read me\n")),
		stream("postgresql/niodoo.dump", bytes.Repeat([]byte("SELECT 1;\n"), 300_000)),
		stream("postgresql/empty.dump", nil),
		stream("postgresql/aligned.dump", random(1, 2*frameSize)),
		{header: tar.Header{Typeflag: tar.TypeDir, Name: "files/data/", Mode: 0o2755, ModTime: at}},
		file("files/data/empty", nil),
		file("files/data/block", random(2, tarBlock)),
		file("files/data/caf\xe9\nname", random(3, 1000)),
		file("files/data/"+strings.Repeat("long", 60), random(4, 1)),
		{header: tar.Header{Typeflag: tar.TypeSymlink, Name: "files/data/link", Linkname: "../else where", ModTime: at}},
		file("files/data/big", append(random(5, 3*frameSize+17), make([]byte, 2*frameSize)...)),
	}
}

// archive writes a whole backup.
func archive(t testing.TB, dir string, all []member, recipients ...age.Recipient) Summary {
	t.Helper()
	s := summary()
	s.Archive, s.Encryption = nil, nil
	if len(recipients) > 0 {
		s.Encryption = &Encryption{Method: "age", Recipients: []string{"test"}}
	}
	var w *ArchiveWriter
	err := atomicfile.Create(ArchivePath(dir, s.Name, s.Encryption != nil), 0o600, func(f io.Writer) error {
		var err error
		if w, err = NewArchiveWriter(f, recipients...); err != nil {
			return err
		}
		w.Dir = dir
		for _, m := range all {
			h := m.header
			if m.stream {
				err = w.AddStream(&h, bytes.NewReader(m.content), dir, nil)
			} else {
				_, err = w.Add(&h, bytes.NewReader(m.content), "")
			}
			if err != nil {
				return err
			}
		}
		s, err = w.Finish(s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.WriteManifest(dir, s), w.Close()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestArchiveRoundTrip(t *testing.T) {
	t.Parallel()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, recipients := range map[string][]age.Recipient{"plain": nil, "encrypted": {id.Recipient()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			all := testMembers()
			s := archive(t, dir, all, recipients...)
			r, err := OpenArchive(t.Context(), dir, s.Name, []age.Identity{id}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			for _, want := range all {
				h, err := r.Next()
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(r)
				if err != nil {
					t.Fatal(err)
				}
				if h.Name != want.header.Name || h.Linkname != want.header.Linkname || h.Mode != want.header.Mode || !h.ModTime.Equal(want.header.ModTime) ||
					h.Uid != want.header.Uid || h.Typeflag != want.header.Typeflag || !bytes.Equal(got, want.content) {
					t.Errorf("got %+v with %d bytes, want %+v with %d bytes", h, len(got), want.header, len(want.content))
				}
			}
			if _, err := r.Next(); !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %v", err)
			}
			if detail, err := Verify(t.Context(), dir, s.Name, []age.Identity{id}, nil); err != nil || detail != "" {
				t.Errorf("%q, %v", detail, err)
			}
			detail, err := Verify(t.Context(), dir, s.Name, nil, nil)
			if err != nil || (detail == "") != (recipients == nil) {
				t.Errorf("without a key: %q, %v", detail, err)
			}
			left, err := filepath.Glob(filepath.Join(dir, ".*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %q, %v", left, err)
			}
		})
	}
}

// replaceArchive puts another archive in the place of a backup's, and writes a
// manifest that fits it.
func replaceArchive(t testing.TB, dir string, s Summary, content []byte) {
	t.Helper()
	var entries []Entry
	if _, err := ReadManifest(dir, s.Name, func(e Entry) error { entries = append(entries, e); return nil }); err != nil {
		t.Fatal(err)
	}
	a := *s.Archive
	a.Bytes, a.SHA256 = int64(len(content)), fmt.Sprintf("%x", sha256.Sum256(content))
	s.Archive = &a
	if err := errors.Join(os.Remove(ManifestPath(dir, s.Name)), os.WriteFile(filepath.Join(dir, a.File), content, 0o600),
		WriteManifest(dir, s, slices.Values(entries))); err != nil {
		t.Fatal(err)
	}
}

// TestVerifyContent looks behind the checksum of the whole: the manifests and
// the archive must agree in everything, and nothing may be added or missing.
func TestVerifyContent(t *testing.T) {
	t.Parallel()
	compress := func(t *testing.T, raw []byte) []byte {
		enc, err := newEncoders()
		if err != nil {
			t.Fatal(err)
		}
		return enc.strong.EncodeAll(raw, nil)
	}
	for name, change := range map[string]func(t *testing.T, raw []byte) []byte{
		"truncated frame":  func(t *testing.T, raw []byte) []byte { c := compress(t, raw); return c[:len(c)-5] },
		"truncated tar":    func(t *testing.T, raw []byte) []byte { return compress(t, raw[:len(raw)-3*tarBlock]) },
		"no members":       func(t *testing.T, _ []byte) []byte { return compress(t, make([]byte, 2*tarBlock)) },
		"nothing":          func(t *testing.T, _ []byte) []byte { return compress(t, nil) },
		"trailing content": func(t *testing.T, raw []byte) []byte { return append(compress(t, raw), compress(t, []byte("x"))...) },
		"trailing bytes":   func(t *testing.T, raw []byte) []byte { return append(compress(t, raw), "garbage"...) },
		"not compressed":   func(_ *testing.T, raw []byte) []byte { return raw },
		"changed content": func(t *testing.T, raw []byte) []byte {
			return compress(t, bytes.Replace(raw, []byte("read me"), []byte("head me"), 1))
		},
		"changed inner digest": func(t *testing.T, raw []byte) []byte {
			return compress(t, bytes.Replace(raw, []byte("\"daily\""), []byte("\"dally\""), 1))
		},
		"member twice": func(t *testing.T, raw []byte) []byte { return compress(t, slices.Concat(raw[:3*tarBlock], raw)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := archive(t, dir, testMembers()[:1])
			stored, err := os.ReadFile(ArchivePath(dir, s.Name, false))
			if err != nil {
				t.Fatal(err)
			}
			d, err := zstd.NewReader(nil)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			raw, err := d.DecodeAll(stored, nil)
			if err != nil {
				t.Fatal(err)
			}
			replaceArchive(t, dir, s, compress(t, raw))
			if _, err := Verify(t.Context(), dir, s.Name, nil, nil); err != nil {
				t.Fatalf("unchanged: %v", err)
			}
			replaceArchive(t, dir, s, change(t, raw))
			if _, err := Verify(t.Context(), dir, s.Name, nil, nil); !errors.Is(err, ErrDamaged) {
				t.Errorf("got %v, want damage", err)
			}
		})
	}
}

// TestVerifyTruncated cuts an archive behind its manifest's back.
func TestVerifyTruncated(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := archive(t, dir, testMembers())
	path := ArchivePath(dir, s.Name, false)
	for size := s.Archive.Bytes - 1; size > 0; size /= 2 {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(t.Context(), dir, s.Name, nil, nil); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d bytes: %v", size, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), dir, s.Name, nil, nil); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("without the archive: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	archive(t, t.TempDir(), nil)
	dir = t.TempDir()
	s = archive(t, dir, testMembers())
	cancel()
	if _, err := Verify(ctx, dir, s.Name, nil, nil); !errors.Is(err, context.Canceled) || errors.Is(err, ErrDamaged) {
		t.Errorf("cancelled: %v", err)
	}
}

// failingWriter takes some bytes and then has no room.
type failingWriter struct{ room int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.room {
		return w.room, syscall.ENOSPC
	}
	w.room -= len(p)
	return len(p), nil
}

func TestArchiveNoRoom(t *testing.T) {
	t.Parallel()
	for _, room := range []int{0, 100, frameSize, 3 * frameSize} {
		w, err := NewArchiveWriter(&failingWriter{room})
		if err != nil {
			t.Fatal(err)
		}
		add := func() error {
			for _, m := range testMembers() {
				h := m.header
				h.Size = int64(len(m.content))
				if _, err := w.Add(&h, bytes.NewReader(m.content), ""); err != nil {
					return err
				}
			}
			_, err := w.Finish(summary())
			return err
		}
		if err := add(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("room for %d bytes: %v", room, err)
		}
		_ = w.Close()
	}
}

// TestSpoolIsFreed wants no content to lie there twice for longer than it takes
// to add it: the room that a backup asks for is the archive's and one spool's.
func TestSpoolIsFreed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := NewArchiveWriter(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.Dir = dir
	s, err := w.Spool(bytes.NewReader(random(1, 3*frameSize)), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AddSpooled(memberHeader("a", 0, time.Now()), s); err != nil {
		t.Fatal(err)
	}
	if _, err := s.file.f.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("its file is still there: %v", err)
	}
}

func TestAddFillsUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := summary()
	s.Archive, s.Encryption = nil, nil
	h := testMembers()[0].header
	h.Size = 1000
	if err := atomicfile.Create(ArchivePath(dir, s.Name, false), 0o600, func(f io.Writer) error {
		w, err := NewArchiveWriter(f)
		if err != nil {
			return err
		}
		defer w.Close()
		if short, err := w.Add(&h, strings.NewReader("abc"), ""); err != nil || short != 997 {
			t.Errorf("short by %d, %v", short, err)
		}
		w.Annotate("it shrank")
		if s, err = w.Finish(s); err != nil {
			return err
		}
		return w.WriteManifest(dir, s)
	}); err != nil {
		t.Fatal(err)
	}
	r, err := OpenArchive(t.Context(), dir, s.Name, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Next(); err != nil || r.Entry().Note != "it shrank" {
		t.Errorf("%+v, %v", r.Entry(), err)
	}
	if raw, err := io.ReadAll(r); err != nil || string(raw) != "abc"+strings.Repeat("\x00", 997) {
		t.Errorf("%q, %v", raw, err)
	}
}

// TestVerifyFlips flips one bit at 1,000 random places of an archive that also
// has a skippable frame: each is found.
func TestVerifyFlips(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	all := slices.Delete(testMembers()[:8], 3, 4) // it is read 1,000 times: without the one of 2 MiB,
	all[1].content = all[1].content[:50_000]      // and with less of the one of 3 MB
	s := archive(t, dir, all)
	path := ArchivePath(dir, s.Name, false)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 200, 0, 0, 0}, random(9, 200)...)
	whole = slices.Concat(skippable, whole, skippable)
	replaceArchive(t, dir, s, whole)
	if _, err := Verify(t.Context(), dir, s.Name, nil, nil); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := rand.New(rand.NewPCG(7, uint64(len(whole))))
	places := []int{0, 3, 4, 100, 208, 211, 212, 213, len(whole) - 1, len(whole) - 201}
	for len(places) < 1000 {
		places = append(places, r.IntN(len(whole)))
	}
	for _, at := range places {
		if _, err := f.WriteAt([]byte{whole[at] ^ 1<<r.IntN(8)}, int64(at)); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(t.Context(), dir, s.Name, nil, nil); !errors.Is(err, ErrDamaged) {
			t.Fatalf("a bit flipped at %d: %v", at, err)
		}
		if _, err := f.WriteAt(whole[at:at+1], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Verify(t.Context(), dir, s.Name, nil, nil); err != nil {
		t.Errorf("mended: %v", err)
	}
}
