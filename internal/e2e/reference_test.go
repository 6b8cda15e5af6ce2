// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/niodoo/niodoo_exporter/collector"
)

// notInDemo are the collectors that the demo has nothing for, and why.
var notInDemo = map[string]string{
	"gpu": "no graphics processor can be simulated: nvidia-smi is a program",
}

// The demo's scrape and the reference say the same: every family scraped is
// declared as it is exported, and every family declared is scraped unless the
// declaration says when it is absent.
func TestReferenceHoldsForTheDemo(t *testing.T) {
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	Start(t, Build(t, "niodoo_sim"), "demo", "--exporter="+Build(t, "niodoo_exporter"), "--exporter-address="+address)
	var body string
	Await(t, "a scrape succeeds whole", func() (err error) {
		if body, err = Get("http://" + address + "/metrics"); err != nil {
			return err
		}
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, collectorFailure) || strings.HasPrefix(line, "niodoo_component_up{") && strings.HasSuffix(line, " 0\n") {
				return fmt.Errorf("%s", strings.TrimSpace(line))
			}
		}
		return nil
	})

	parser := expfmt.NewTextParser(model.UTF8Validation)
	scraped, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]*collector.Desc{}
	for _, d := range collector.Catalogue() {
		declared[d.Name] = d
	}
	ours := 0
	for name, f := range scraped {
		if !strings.HasPrefix(name, "niodoo_") {
			continue
		}
		ours++
		d := declared[name]
		if d == nil {
			t.Errorf("%s is scraped and not declared", name)
			continue
		}
		if f.GetType() != d.Type || f.GetHelp() != d.HelpText() {
			t.Errorf("%s is scraped as %s %q, declared as %s %q", name, f.GetType(), f.GetHelp(), d.Type, d.HelpText())
		}
		for _, m := range f.Metric {
			if got, want := labelNames(m), slices.Sorted(slices.Values(d.Labels)); !slices.Equal(got, want) {
				t.Errorf("%s is scraped with the labels %v, declared with %v", name, got, want)
			}
		}
	}
	for name, d := range declared {
		if scraped[name] == nil && d.Absent == "" && notInDemo[d.Collector] == "" {
			t.Errorf("%s is declared, not scraped, and does not say when it is absent", name)
		}
	}
	t.Logf("%d families scraped, %d declared", ours, len(declared))

	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("promlint: %s: %s", p.Metric, p.Text)
	}
	check := exec.Command(Tool(t, "promtool"), "check", "metrics")
	check.Stdin = strings.NewReader(body)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

const collectorFailure = "niodoo_scrape_collector_failure_info{"

func labelNames(m *dto.Metric) []string {
	var names []string
	for _, l := range m.Label {
		names = append(names, l.GetName())
	}
	slices.Sort(names)
	return names
}

// The reference that is committed is the one the code gives.
func TestReferenceIsCurrent(t *testing.T) {
	cmd := exec.Command("go", "run", "./internal/reference")
	cmd.Dir = Root(t)
	want, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(Root(t), "collector", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("collector/README.md is not current: run make generate")
	}
}
