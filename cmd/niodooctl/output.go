// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// Formats of the output.
const (
	formatText     = "text"
	formatJSON     = "json"
	formatMarkdown = "markdown"
)

// json prints a value for machines, indented. Times are RFC 3339, durations
// seconds; a field's name says its unit.
func (e *env) json(v any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printf prints to the standard output.
func (e *env) printf(format string, args ...any) { fmt.Fprintf(e.stdout, format, args...) }

// heading prints a title of a level, 1 the highest: in Markdown as such, in text
// with an empty line before all but the first.
func (e *env) heading(level int, title string) {
	switch {
	case e.format == formatMarkdown:
		e.printf("\n%s %s\n\n", strings.Repeat("#", level), title)
	case level == 1:
		e.printf("%s\n", title)
	default:
		e.printf("\n%s\n", title)
	}
}

// oneLine writes an error of several lines in one.
func oneLine(text string) string { return strings.ReplaceAll(text, "\n", "; ") }

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colours reports whether the standard output is coloured: only a terminal, and
// neither --no-color, NO_COLOR (https://no-color.org) nor TERM=dumb.
func (e *env) colours() bool {
	return !e.noColor && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && e.format == formatText && isTerminal(e.stdout)
}

var verdictColours = map[opstate.Verdict]text.Colors{
	opstate.Well:    {text.FgGreen},
	opstate.Warning: {text.FgYellow},
	opstate.Failing: {text.FgRed, text.Bold},
	opstate.Unknown: {text.FgMagenta},
}

// coloured returns s in the colour of a verdict, or as it is where the output
// is not coloured.
func (e *env) coloured(v opstate.Verdict, s string) string {
	if !e.colours() {
		return s
	}
	return verdictColours[v].EscapeSeq() + s + text.EscapeReset
}

// table prints rows in columns without a frame; an empty header is left out.
// Numbers may be aligned to the right by their column's number from 1.
func (e *env) table(header []string, rows [][]string, right ...int) {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.Options{}
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	var configs []table.ColumnConfig
	for _, n := range right {
		configs = append(configs, table.ColumnConfig{Number: n, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	t.SetColumnConfigs(configs)
	if len(header) > 0 {
		t.AppendHeader(row(header))
	}
	for _, r := range rows {
		t.AppendRow(row(r))
	}
	if e.format == formatMarkdown {
		e.printf("%s\n", t.RenderMarkdown())
		return
	}
	e.printf("%s\n", t.Render())
}

func row(cells []string) table.Row {
	r := make(table.Row, len(cells))
	for i, c := range cells {
		r[i] = c
	}
	return r
}

// progressAfter is how long something may take before it shows how far it is.
const progressAfter = 2 * time.Second

// progress shows on the standard error how far something long is, once it has
// taken over two seconds. total is in bytes if bytes is set; -1 is unknown. Call
// done at the end. Add may be called from any goroutine.
type progress struct {
	bar   *progressbar.ProgressBar
	timer *time.Timer

	mu    sync.Mutex
	shown bool
	added int64
	over  bool
}

func (e *env) progress(what string, total int64, bytes bool) *progress {
	p := &progress{}
	if e.quiet || !isTerminal(e.stderr) {
		return p
	}
	p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(e.stderr), progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(bytes), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(200*time.Millisecond),
		progressbar.OptionSetRenderBlankState(false))
	p.timer = time.AfterFunc(progressAfter, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.over {
			p.shown = true
			_ = p.bar.Add64(p.added)
		}
	})
	return p
}

// add says that n more are done.
func (p *progress) add(n int64) {
	if p.bar == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.added += n
	if p.shown && !p.over {
		_ = p.bar.Add64(n)
	}
}

// done takes the progress off the screen.
func (p *progress) done() {
	if p.bar == nil {
		return
	}
	p.timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	if p.shown {
		_ = p.bar.Clear()
	}
}
