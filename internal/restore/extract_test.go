// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// describe returns all that is to survive of a tree: a line for each file, with
// content, mode, owner, time, links, extended attributes and holes.
func describe(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%q %o %d:%d", name, st.Mode, st.Uid, st.Gid)
		if name != "." {
			line += fmt.Sprintf(" %d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", len(raw), sha256.Sum256(raw))
			if st.Nlink > 1 {
				if first[st.Ino] == "" {
					first[st.Ino] = name
				}
				line += fmt.Sprintf(" linked with %q", first[st.Ino])
			}
			if st.Blocks*512 < st.Size/2 {
				line += " sparse"
			}
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" -> %q", to)
		}
		buf := make([]byte, 1024)
		if n, err := unix.Llistxattr(p, buf); err == nil {
			names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
			slices.Sort(names)
			for _, attr := range names {
				value := make([]byte, 1024)
				if n, err := unix.Lgetxattr(p, attr, value); err == nil {
					line += fmt.Sprintf(" %s=%q", attr, value[:n])
				}
			}
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// oddTree fills a directory with what backups tend to lose.
func oddTree(t testing.TB, dir string) {
	t.Helper()
	at := time.Date(2024, 2, 29, 23, 59, 59, 123456789, time.UTC)
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"memories/2024", "empty", "closed", "-rf"} {
		try(os.MkdirAll(path(d), 0o755))
	}
	for name, content := range map[string]string{
		"memories/2024/a.json": `{"emotion":"joy"}`, "memories/2024/empty": "", "new\nline": "x", "bad\xff\xfeutf8": "y", "-rf/*": "z",
		"closed/secret": "s", "spaces  in it": "w", strings.Repeat("long", 60): "l", "unter/strich": "", "ünï/cødé": "u",
	} {
		try(os.MkdirAll(filepath.Dir(path(name)), 0o755))
		try(os.WriteFile(path(name), []byte(content), 0o644))
	}
	try(os.Link(path("memories/2024/a.json"), path("memories/hard")))
	try(os.Symlink("2024/a.json", path("memories/latest")))
	try(os.Symlink("/etc/passwd", path("outside")))
	try(os.Symlink("../../nowhere", path("dangling")))
	try(unix.Mkfifo(path("pipe"), 0o620))
	try(os.WriteFile(path("hole"), []byte("begin"), 0o600))
	f, err := os.OpenFile(path("hole"), os.O_WRONLY, 0)
	try(err)
	_, err = f.WriteAt([]byte("end"), 8<<20)
	try(errors.Join(err, f.Truncate(9<<20), f.Close()))
	if err := unix.Setxattr(path("memories/2024/a.json"), "user.mood", []byte("a\x00b\xff"), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		try(os.Lchown(path("memories/2024/a.json"), 12345, 54321))
		try(os.Lchown(path("memories/latest"), 12345, 54321))
		try(os.Lchown(path("closed"), 7, 8))
	}
	try(os.Chmod(path("memories/2024/a.json"), 0o4751|os.ModeSetuid))
	try(os.Chmod(path("closed/secret"), 0))
	try(filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		ts := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
		at = at.Add(time.Second + 1)
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
	}))
	try(os.Chmod(path("closed"), 0o700|os.ModeSticky))
	try(os.Chmod(path("empty"), 0o2555|os.ModeSetgid))
}

func TestTree(t *testing.T) {
	t.Parallel()
	from, to := t.TempDir(), t.TempDir()
	oddTree(t, from)
	tr, err := newTree(to)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.close()
	for _, m := range membersOf(t, from, "") {
		if err := tr.add(m.h, bytes.NewReader(m.content)); err != nil {
			t.Fatalf("%q: %v", m.h.Name, err)
		}
	}
	if err := tr.finish(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(describe(t, from), describe(t, to)); d != "" {
		t.Errorf("(-was +is):\n%s", d)
	}
	if len(tr.notes) > 0 {
		t.Error(tr.notes)
	}
}

type packed struct {
	h       *tar.Header
	content []byte
}

// membersOf packs a tree as an archive has it, its names below a prefix.
func membersOf(t testing.TB, dir, prefix string) []packed {
	t.Helper()
	var all []packed
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(p); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		h.Name = filepath.Join(prefix, rel)
		if info.IsDir() {
			h.Name += "/"
		}
		m := packed{h: h}
		st := info.Sys().(*syscall.Stat_t)
		switch {
		case !info.Mode().IsRegular():
		case st.Nlink > 1 && first[st.Ino] != "":
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first[st.Ino], 0
		default:
			first[st.Ino] = h.Name
			if m.content, err = os.ReadFile(p); err != nil {
				return err
			}
			value := make([]byte, 1024)
			if n, err := unix.Lgetxattr(p, "user.mood", value); err == nil {
				h.PAXRecords = map[string]string{xattrRecord + "user.mood": string(value[:n])}
			}
		}
		all = append(all, m)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Nothing in an archive makes it write outside, or over what is there.
func TestTreeStaysInside(t *testing.T) {
	t.Parallel()
	file := func(name string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 1, Mode: 0o644}
	}
	outside := t.TempDir()
	symlink := &tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: outside}
	up := &tar.Header{Typeflag: tar.TypeSymlink, Name: "up", Linkname: ".."}
	for name, members := range map[string][]*tar.Header{
		"absolute":               {file("/etc/x")},
		"above":                  {file("../x")},
		"above, hidden":          {file("a/../../x")},
		"through a link":         {symlink, file("link/x")},
		"through a link upwards": {up, file("up/x")},
		"over a link":            {symlink, file("link")},
		"twice":                  {file("a"), file("a")},
		"hard link to outside":   {{Typeflag: tar.TypeLink, Name: "h", Linkname: "../../etc/passwd"}},
		"hard link through one":  {symlink, {Typeflag: tar.TypeLink, Name: "h", Linkname: "link/passwd"}},
		"directory through one":  {symlink, {Typeflag: tar.TypeDir, Name: "link/d", Mode: 0o755}},
		"file as a directory":    {file("a"), file("a/b")},
		"fifo through a link":    {symlink, {Typeflag: tar.TypeFifo, Name: "link/f"}},
	} {
		dir := filepath.Join(t.TempDir(), "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		tr, err := newTree(dir)
		if err != nil {
			t.Fatal(err)
		}
		for i, h := range members {
			err := tr.add(h, strings.NewReader("x"))
			if last := i == len(members)-1; last != (err != nil) {
				t.Errorf("%s: member %d: %v", name, i, err)
			}
		}
		tr.close()
		for _, d := range []string{outside, filepath.Dir(dir)} {
			entries, err := os.ReadDir(d)
			if err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name() != "in" {
				t.Errorf("%s: in %s there is %v now (%v)", name, d, entries, err)
			}
		}
	}
}

func TestTreeContentEndsEarly(t *testing.T) {
	t.Parallel()
	tr, err := newTree(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer tr.close()
	if err := tr.add(&tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: 2, Mode: 0o644}, strings.NewReader("x")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if err := tr.add(&tar.Header{Typeflag: tar.TypeBlock, Name: "sda"}, nil); err != nil || len(tr.notes) != 1 {
		t.Errorf("a device: %v, %q", err, tr.notes)
	}
}
