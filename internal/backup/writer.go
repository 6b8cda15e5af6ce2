// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"archive/tar"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"filippo.io/age"
)

// The members of an archive, in this order; directories and what is in them
// come from a name or a collection of names.
const (
	ReadmeMember     = "README.txt"
	PostgreSQLDir    = "postgresql/"
	GlobalsMember    = PostgreSQLDir + "globals.sql"
	DumpSuffix       = ".dump"
	RedisMember      = "redis/dump.rdb"
	QdrantDir        = "qdrant/"
	SnapshotSuffix   = ".snapshot"
	ModelsMember     = "ollama/models.json"
	FilesDir         = "files/"
	ManifestMember   = "MANIFEST.json"
	tarBlock         = 512
	encryptionMethod = "age"
)

// NewEntry returns the entry of a member by its exact name.
func NewEntry(name string, size int64, sum []byte) Entry {
	e := Entry{Name: name, Bytes: size, SHA256: hex.EncodeToString(sum)}
	if !utf8.ValidString(name) {
		e.NameBase64 = base64.StdEncoding.EncodeToString([]byte(name))
	}
	return e
}

// Member returns the exact name of the entry's member, which need not be UTF-8.
func (e Entry) Member() (string, error) {
	if e.NameBase64 == "" {
		return e.Name, nil
	}
	raw, err := base64.StdEncoding.DecodeString(e.NameBase64)
	return string(raw), err
}

// copySize is how much is read at a time.
const copySize = 128 << 10

// ArchiveWriter writes an archive in one pass. Only [ArchiveWriter.Spool] may
// be called beside its other methods.
type ArchiveWriter struct {
	file    io.Writer
	sum     hash.Hash
	written int64
	failure atomic.Pointer[error]
	sealed  io.WriteCloser // between the frames and the file; nil without encryption
	enc     *encoders
	pool    chan *frame
	frames  *frames
	buf     []byte
	entries entryList
	content int64
	closed  bool
	// Dir is where entries wait for the manifest; "" is the system's temporary directory.
	Dir string
	// Progress is told of every piece of content, also by several goroutines at a time.
	Progress func(bytes int64)
}

// NewArchiveWriter returns a writer to file, encrypted if there are recipients.
// Close it.
func NewArchiveWriter(file io.Writer, recipients ...age.Recipient) (*ArchiveWriter, error) {
	w := &ArchiveWriter{file: file, sum: sha256.New(), buf: make([]byte, copySize), Progress: func(int64) {}}
	enc, err := newEncoders()
	if err != nil {
		return nil, err
	}
	w.enc, w.pool = enc, newPool(enc.workers)
	out := io.Writer(writerFunc(w.store))
	if len(recipients) > 0 {
		if w.sealed, err = age.Encrypt(out, recipients...); err != nil {
			return nil, fmt.Errorf("encrypting: %w", err)
		}
		out = w.sealed
	}
	w.frames = newFrames(out, w.enc, w.pool)
	return w, nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// store writes to the file what is to be found there.
func (w *ArchiveWriter) store(p []byte) (int, error) {
	w.sum.Write(p)
	n, err := w.file.Write(p)
	w.written += int64(n)
	if err != nil {
		w.failure.CompareAndSwap(nil, &err)
	}
	return n, err
}

// Failed returns why the file could not be written, nil if it could so far:
// after any other error the next member may be added.
func (w *ArchiveWriter) Failed() error {
	if err := w.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// header writes a member's header. Times are kept to the nanosecond.
func (w *ArchiveWriter) header(h *tar.Header) error {
	h.Format = tar.FormatPAX
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{} // they differ at every backup
	// A tar.Writer keeps nothing between headers, and would want content that
	// is compressed already.
	return tar.NewWriter(w.frames).WriteHeader(h)
}

var zeroes [64 << 10]byte

func (w *ArchiveWriter) pad(size int64) error {
	_, err := w.frames.Write(zeroes[:-size&(tarBlock-1)])
	return err
}

// Add writes a member of h.Size bytes. Content that ends sooner is filled up
// with zeros, and short says by how much; what comes after h.Size is not read.
func (w *ArchiveWriter) Add(h *tar.Header, content io.Reader, note string) (short int64, err error) {
	if err := w.header(h); err != nil {
		return 0, fmt.Errorf("%q: %w", h.Name, err)
	}
	sum := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(w.frames, sum, w.counter()), onlyReader{io.LimitReader(content, h.Size)}, w.buf)
	if err != nil {
		return 0, fmt.Errorf("%q: %w", h.Name, err)
	}
	short = h.Size - n
	for rest := short; rest > 0; {
		z := zeroes[:min(rest, int64(len(zeroes)))]
		sum.Write(z)
		if _, err := w.frames.Write(z); err != nil {
			return 0, err
		}
		rest -= int64(len(z))
	}
	w.note(NewEntry(h.Name, h.Size, sum.Sum(nil)), note)
	return short, w.pad(h.Size)
}

// onlyReader hides WriteTo, which would choose a buffer of its own.
type onlyReader struct{ io.Reader }

// onlyWriter hides ReadFrom, which would, too.
type onlyWriter struct{ io.Writer }

func (w *ArchiveWriter) counter() io.Writer {
	return writerFunc(func(p []byte) (int, error) { w.Progress(int64(len(p))); return len(p), nil })
}

func (w *ArchiveWriter) note(e Entry, note string) {
	e.Note = note
	w.content += e.Bytes
	if err := w.entries.add(w.Dir, e); err != nil {
		w.failure.CompareAndSwap(nil, &err)
	}
}

// Annotate sets the note of the member that was added last.
func (w *ArchiveWriter) Annotate(note string) { w.entries.last.Note = note }

// AddStream writes a member whose length nobody knows before its end: it is
// spooled, see [ArchiveWriter.Spool], and added.
func (w *ArchiveWriter) AddStream(h *tar.Header, content io.Reader, dir string, finish func() error) error {
	s, err := w.Spool(content, dir, finish)
	if err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	defer s.Close()
	return w.AddSpooled(h, s)
}

// Spooled is content that was compressed before its member is written.
type Spooled struct {
	file *spool
	size int64
	sum  []byte
}

// Close frees the room that the content takes.
func (s *Spooled) Close() { _ = s.file.Close() }

// Spool compresses content into a nameless file in dir. It may be called while
// members are added, so that what is slow to come does not hold them up.
// finish, if not nil, is called once the content has been read; its error is
// that of the content.
func (w *ArchiveWriter) Spool(content io.Reader, dir string, finish func() error) (*Spooled, error) {
	file, err := newSpool(dir, w.sealed != nil)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	pieces := newFrames(file, w.enc, w.pool)
	n, err := io.CopyBuffer(io.MultiWriter(pieces, sum, w.counter()), onlyReader{content}, make([]byte, copySize))
	err = errors.Join(err, pieces.close())
	if err == nil && finish != nil {
		err = finish()
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &Spooled{file: file, size: n, sum: sum.Sum(nil)}, nil
}

// AddSpooled writes a member whose content has been spooled: its frames go into
// the archive as they are, behind a header that knows their length. The room
// that they took is free then: several may have been waiting.
func (w *ArchiveWriter) AddSpooled(h *tar.Header, s *Spooled) error {
	h.Size = s.size
	if err := w.header(h); err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	if err := w.frames.flush(); err != nil {
		return err
	}
	if err := s.file.replay(w.frames.out); err != nil {
		return err
	}
	s.Close()
	w.note(NewEntry(h.Name, s.size, s.sum), "")
	return w.pad(s.size)
}

// AddBytes writes a small regular file.
func (w *ArchiveWriter) AddBytes(name string, content []byte, at time.Time) error {
	_, err := w.Add(memberHeader(name, int64(len(content)), at), bytes.NewReader(content), "")
	return err
}

// memberHeader is the header of a member that is nobody's file.
func memberHeader(name string, size int64, at time.Time) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: at}
}

// WriteManifest is [WriteManifest] with the entries of the members.
func (w *ArchiveWriter) WriteManifest(dir string, s Summary) error {
	return writeManifest(dir, s, w.entries.lines())
}

// Finish writes the manifest as the last member and the end of the archive. It
// returns s with the size of the content and the file.
func (w *ArchiveWriter) Finish(s Summary) (Summary, error) {
	if err := w.Failed(); err != nil {
		return s, err
	}
	s.Archive, s.ContentBytes = nil, w.content
	// The first time only the length is wanted: a manifest may be large.
	var size int64
	if err := encodeLines(writerFunc(func(p []byte) (int, error) { size += int64(len(p)); return len(p), nil }), s, w.entries.lines()); err != nil {
		return s, err
	}
	if err := w.header(memberHeader(ManifestMember, size, s.Started)); err != nil {
		return s, err
	}
	if err := encodeLines(w.frames, s, w.entries.lines()); err != nil {
		return s, err
	}
	if err := w.pad(size); err != nil {
		return s, err
	}
	if _, err := w.frames.Write(zeroes[:2*tarBlock]); err != nil {
		return s, err
	}
	if err := w.end(); err != nil {
		return s, err
	}
	file := s.Name + archiveSuffix
	if s.Encryption != nil {
		file = s.Name + encryptedSuffix
	}
	s.Archive = &ArchiveFile{File: file, Bytes: w.written, SHA256: hex.EncodeToString(w.sum.Sum(nil))}
	return s, nil
}

// Close ends the goroutines and forgets the entries; without
// [ArchiveWriter.Finish] the archive is not whole.
func (w *ArchiveWriter) Close() error { return errors.Join(w.end(), w.entries.close()) }

// end ends the stream.
func (w *ArchiveWriter) end() error {
	if w.closed {
		return nil
	}
	w.closed = true
	err := w.frames.close()
	if w.sealed != nil {
		err = errors.Join(err, w.sealed.Close())
	}
	return errors.Join(err, w.enc.close())
}

// spool is a file without a name, which no crash leaves behind. What is to be
// encrypted is so here too, with a key that only this process has.
type spool struct {
	f      *os.File
	stream cipher.Stream
	key    []byte
}

func newSpool(dir string, secret bool) (*spool, error) {
	f, err := os.CreateTemp(dir, ".niodoo_backup_spool-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	s := &spool{f: f}
	if secret {
		s.key = make([]byte, 32)
		rand.Read(s.key)
		s.stream = s.newStream()
	}
	return s, nil
}

func (s *spool) newStream() cipher.Stream {
	block, err := aes.NewCipher(s.key)
	if err != nil {
		panic(err) // the key's length is right
	}
	return cipher.NewCTR(block, make([]byte, aes.BlockSize)) // each key is used once
}

// Write appends to the spool; it may change p.
func (s *spool) Write(p []byte) (int, error) {
	if s.stream != nil {
		s.stream.XORKeyStream(p, p)
	}
	return s.f.Write(p)
}

// replay writes all that is in the spool to w.
func (s *spool) replay(w io.Writer) error {
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var r io.Reader = s.f
	if s.stream != nil {
		r = cipher.StreamReader{S: s.newStream(), R: s.f}
	}
	_, err := io.CopyBuffer(writerFunc(w.Write), onlyReader{r}, make([]byte, 256<<10))
	return err
}

func (s *spool) Close() error { return s.f.Close() }
