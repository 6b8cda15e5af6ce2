// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
)

// entryLine returns an entry as a line of the manifest, without its indentation.
func entryLine(e Entry) ([]byte, error) {
	if err := e.validate(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	line, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if len(line)+16 > maxLineSize {
		return nil, fmt.Errorf("manifest: the entry %.100q makes it %w", e.Name, ErrTooLarge)
	}
	return line, nil
}

// entryLines makes the lines of entries.
func entryLines(entries iter.Seq[Entry]) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for e := range entries {
			if line, err := entryLine(e); !yield(line, err) || err != nil {
				return
			}
		}
	}
}

// entryList is the entries of an archive in the making, as the lines of its
// manifest, in a nameless file: there may be millions.
type entryList struct {
	spool *spool
	out   *bufio.Writer
	last  *Entry // may still be annotated
}

// add appends an entry; the file is in dir.
func (l *entryList) add(dir string, e Entry) error {
	var err error
	if l.spool == nil {
		if l.spool, err = newSpool(dir, false); err == nil {
			l.out = bufio.NewWriterSize(l.spool, 64<<10)
		}
	} else {
		err = l.settle()
	}
	l.last = &e
	return err
}

// settle writes the last entry, which does not change any more.
func (l *entryList) settle() error {
	if l.last == nil {
		return nil
	}
	line, err := entryLine(*l.last)
	if err != nil {
		return err
	}
	l.last = nil
	_, err = l.out.Write(append(line, '\n'))
	return err
}

// lines returns what was added. A line is valid until the next one.
func (l *entryList) lines() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if l.spool == nil {
			return
		}
		if err := errors.Join(l.settle(), l.out.Flush()); err != nil {
			yield(nil, err)
			return
		}
		if _, err := l.spool.f.Seek(0, io.SeekStart); err != nil {
			yield(nil, err)
			return
		}
		for r := bufio.NewReaderSize(l.spool.f, maxLineSize); ; {
			line, err := r.ReadSlice('\n')
			if errors.Is(err, io.EOF) && len(line) == 0 {
				return
			}
			if err != nil {
				yield(nil, fmt.Errorf("the entries cannot be read again: %w", err))
				return
			}
			if !yield(line[:len(line)-1], nil) {
				return
			}
		}
	}
}

func (l *entryList) close() error {
	if l.spool == nil {
		return nil
	}
	err := l.spool.Close()
	l.spool = nil
	return err
}
