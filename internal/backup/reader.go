// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
)

// ErrNoIdentity says that an archive is encrypted and there is no key for it.
var ErrNoIdentity = errors.New("encrypted, and none of the identities at hand opens it")

// ArchiveReader reads an archive member by member and compares each with the
// manifest. Only once [ArchiveReader.Next] has returned [io.EOF] is every byte
// of the file known to be right.
//
// An error that is not [ErrDamaged] says nothing about the archive.
type ArchiveReader struct {
	// Summary is the manifest without its entries.
	Summary Summary

	file    *os.File
	raw     *rawFile
	zstd    *zstd.Decoder
	tar     *tar.Reader
	next    func() (Entry, error, bool)
	stop    func()
	entry   Entry     // of the current member
	entries hash.Hash // of all entries of the manifest so far
	sum     hash.Hash
	buf     []byte
	read    int64
	members int
	done    bool
}

// rawFile sums up the file's bytes as they are read, and keeps the error that
// is the file's own from being taken for damage.
type rawFile struct {
	ctx      context.Context
	f        io.Reader
	sum      hash.Hash
	read     int64
	progress func(int64)

	mu  sync.Mutex // the decoder reads ahead on a goroutine of its own
	err error
}

func newRawFile(ctx context.Context, f io.Reader, progress func(int64)) *rawFile {
	if progress == nil {
		progress = func(int64) {}
	}
	return &rawFile{ctx: ctx, f: f, sum: sha256.New(), progress: progress}
}

func (r *rawFile) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, r.failed(err)
	}
	n, err := r.f.Read(p)
	r.sum.Write(p[:n])
	r.read += int64(n)
	r.progress(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		return n, r.failed(err)
	}
	return n, err
}

func (r *rawFile) failed(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	return err
}

// failure returns why the file could not be read, nil if it could.
func (r *rawFile) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// OpenArchive opens the archive of a backup in a directory. progress, if not
// nil, is told of the bytes of the file as they are read. Close it.
func OpenArchive(ctx context.Context, dir, name string, identities []age.Identity, progress func(int64)) (*ArchiveReader, error) {
	// The whole manifest is read once before an entry of it is believed.
	s, err := ReadManifest(dir, name, nil)
	if err != nil {
		return nil, err
	}
	a := &ArchiveReader{Summary: s, sum: sha256.New(), entries: sha256.New(), buf: make([]byte, 128<<10)}
	path := filepath.Join(dir, s.Archive.File)
	f, size, err := atomicfile.Open(path)
	if err != nil {
		return nil, err
	}
	a.file = f
	if size != s.Archive.Bytes {
		f.Close()
		return nil, fmt.Errorf("%s: %w: it has %d bytes and should have %d", path, ErrDamaged, size, s.Archive.Bytes)
	}
	a.raw = newRawFile(ctx, f, progress)
	if err := a.open(identities); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	a.next, a.stop = iter.Pull2(manifestEntries(dir, name))
	return a, nil
}

func (a *ArchiveReader) open(identities []age.Identity) error {
	var r io.Reader = a.raw
	if a.Summary.Encryption != nil {
		if len(identities) == 0 {
			return ErrNoIdentity
		}
		var err error
		if r, err = age.Decrypt(a.raw, identities...); err != nil {
			if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
				return ErrNoIdentity
			}
			return a.judge(err)
		}
	}
	d, err := zstd.NewReader(r, zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return a.judge(err)
	}
	a.zstd = d
	a.tar = tar.NewReader(d)
	return nil
}

var errStop = errors.New("stop")

// manifestEntries hands out the entries of a manifest one by one, and the error that ends them.
func manifestEntries(dir, name string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		_, err := ReadManifest(dir, name, func(e Entry) error {
			if !yield(e, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(Entry{}, err)
		}
	}
}

// judge turns what a decoder says into damage, unless the file could not be read.
func (a *ArchiveReader) judge(err error) error {
	if failure := a.raw.failure(); failure != nil {
		return failure
	}
	if errors.Is(err, ErrDamaged) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// Next goes to the next member, reading the rest of the current one. At the
// end, which is [io.EOF], the whole archive has proved right.
func (a *ArchiveReader) Next() (*tar.Header, error) {
	if a.done {
		return nil, io.EOF
	}
	h, err := a.advance()
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s: %w", a.file.Name(), err)
	}
	a.done = a.done || err != nil
	return h, err
}

func (a *ArchiveReader) advance() (*tar.Header, error) {
	if a.members > 0 {
		if _, err := io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{a}, a.buf); err != nil {
			return nil, err
		}
	}
	h, err := a.tar.Next()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the last member is not " + ManifestMember)
		}
		return nil, a.judge(err)
	}
	entry, err, more := a.next()
	if err != nil {
		return nil, err
	}
	if !more {
		if h.Name != ManifestMember {
			return nil, fmt.Errorf("%w: the member %q is not in the manifest", ErrDamaged, h.Name)
		}
		if err := a.finish(h); err != nil {
			return nil, err
		}
		return nil, io.EOF
	}
	if err := sumEntry(a.entries, entry); err != nil {
		return nil, err
	}
	want, err := entry.Member()
	if err != nil || h.Name != want || h.Size != entry.Bytes {
		return nil, fmt.Errorf("%w: the member %q of %d bytes stands where the manifest has %q of %d bytes", ErrDamaged, h.Name, h.Size, want, entry.Bytes)
	}
	a.members++
	a.entry, a.read = entry, 0
	a.sum.Reset()
	return h, nil
}

// Entry returns what the manifest says of the current member.
func (a *ArchiveReader) Entry() Entry { return a.entry }

// Read reads the current member. Its end is [io.EOF] only if the content is
// what the manifest says.
func (a *ArchiveReader) Read(p []byte) (int, error) {
	n, err := a.tar.Read(p)
	a.sum.Write(p[:n])
	a.read += int64(n)
	switch {
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF):
		return n, fmt.Errorf("%q: %w", a.entry.Name, a.judge(err))
	case a.read != a.entry.Bytes || hex.EncodeToString(a.sum.Sum(nil)) != a.entry.SHA256:
		return n, fmt.Errorf("%w: the content of %q is not what was backed up", ErrDamaged, a.entry.Name)
	}
	return n, io.EOF
}

// finish compares the manifest inside with the one beside the archive, and then
// the file with its length and sum: nothing may come after the end.
func (a *ArchiveReader) finish(h *tar.Header) error {
	if err := a.compareManifests(a.tar); err != nil {
		return a.judge(err)
	}
	if _, err := a.tar.Next(); !errors.Is(err, io.EOF) {
		return a.judge(errors.Join(errors.New("something comes after "+h.Name), err))
	}
	if n, err := io.Copy(io.Discard, onlyReader{a.zstd}); err != nil || n > 0 {
		return a.judge(errors.Join(fmt.Errorf("%d bytes come after the end of the tar", n), err))
	}
	// The decoder has come to the end of the file; were it not so, the rest counts too.
	if _, err := io.Copy(io.Discard, onlyReader{a.raw}); err != nil {
		return err
	}
	return a.raw.compare(a.Summary)
}

// compare tells whether the bytes read are those that were written.
func (r *rawFile) compare(s Summary) error {
	if err := r.failure(); err != nil {
		return err
	}
	if r.read != s.Archive.Bytes || hex.EncodeToString(r.sum.Sum(nil)) != s.Archive.SHA256 {
		return fmt.Errorf("%w: its SHA-256 is not that of the manifest", ErrDamaged)
	}
	return nil
}

// compareManifests reads the manifest inside. It lacks the archive, and its
// duration ends before the file's. The entries are those that were read.
func (a *ArchiveReader) compareManifests(r io.Reader) error {
	entries := sha256.New()
	inside, err := Decode(r, func(e Entry) error { return sumEntry(entries, e) })
	if err != nil {
		return err
	}
	if inside.Archive != nil {
		return fmt.Errorf("%w: the manifest inside names an archive", ErrDamaged)
	}
	beside := a.Summary
	beside.Archive, beside.Seconds, inside.Seconds = nil, 0, 0
	x, errX := json.Marshal(inside)
	y, errY := json.Marshal(beside)
	if errX != nil || errY != nil || !bytes.Equal(x, y) || !bytes.Equal(entries.Sum(nil), a.entries.Sum(nil)) {
		return fmt.Errorf("%w: the manifest inside is another than the one beside the archive", ErrDamaged)
	}
	return nil
}

func sumEntry(h hash.Hash, e Entry) error { return json.NewEncoder(h).Encode(e) }

// Close closes the file.
func (a *ArchiveReader) Close() error {
	a.stop()
	a.zstd.Close()
	return a.file.Close()
}

// Verify reads every byte of a backup's archive and compares it with both
// manifests. nil means that all is as it was written; [ErrDamaged] that it is
// not; any other error that it could not be found out. Of an encrypted archive
// without a fitting identity the file is compared and not what is in it, which
// detail says.
func Verify(ctx context.Context, dir, name string, identities []age.Identity, progress func(int64)) (detail string, err error) {
	a, err := OpenArchive(ctx, dir, name, identities, progress)
	if errors.Is(err, ErrNoIdentity) {
		return "not decrypted: no identity opens it", verifyFile(ctx, dir, name, progress)
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = a.Close() }()
	for {
		_, err := a.Next()
		if errors.Is(err, io.EOF) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
	}
}

// verifyFile compares the archive as it is stored.
func verifyFile(ctx context.Context, dir, name string, progress func(int64)) error {
	s, err := ReadManifest(dir, name, nil)
	if err != nil {
		return err
	}
	f, _, err := atomicfile.Open(filepath.Join(dir, s.Archive.File))
	if err != nil {
		return err
	}
	defer f.Close()
	raw := newRawFile(ctx, f, progress)
	if _, err := io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{raw}, make([]byte, 256<<10)); err != nil {
		return err
	}
	if err := raw.compare(s); err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	return nil
}
