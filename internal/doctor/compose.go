// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// published is a port of the host that a service is to have.
type published struct {
	service, where, ip, proto string
	from, to                  int
}

func (a published) clashes(b published) bool {
	any4 := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	return a.proto == b.proto && a.from <= b.to && b.from <= a.to && (a.ip == b.ip || any4(a.ip) || any4(b.ip))
}

// private are services that nobody outside the stack speaks to, by what is in
// their images' names.
var private = []string{"postgres", "redis", "qdrant", "ollama"}

// composeFile is what the check wants of a compose file.
type composeFile struct {
	Services map[string]struct {
		Image       string      `yaml:"image"`
		Ports       []yaml.Node `yaml:"ports"`
		Environment yaml.Node   `yaml:"environment"`
		Profiles    []string    `yaml:"profiles"`
	} `yaml:"services"`
}

// composeCheck looks into the compose files, all of which make one stack.
func composeCheck(_ context.Context, p *patient) ([]Finding, error) {
	var all []published
	return eachFile(p.ComposeFiles, func(path string, raw []byte) []Finding {
		var c composeFile
		if err := yaml.Unmarshal(raw, &c); err != nil {
			return []Finding{{Level: Failing, Where: path, What: err.Error(), Why: "Compose refuses such a file.", Mend: "Mend it and try it: docker compose config."}}
		}
		var found []Finding
		for _, name := range slices.Sorted(maps.Keys(c.Services)) {
			s := c.Services[name]
			for i := range s.Ports {
				port, err := readPort(&s.Ports[i])
				where := at(path, s.Ports[i].Line)
				if err != nil {
					found = append(found, Finding{Level: Warning, Where: where, What: err.Error(), Why: "What is published cannot be told.", Mend: "Write HOST:CONTAINER."})
					continue
				}
				if port.from == 0 { // any free port
					continue
				}
				port.service, port.where = name, where
				if j := slices.IndexFunc(all, port.clashes); j >= 0 {
					found = append(found, Finding{Level: Failing, Where: where, What: fmt.Sprintf("port %d is published by %s and by %s (%s)", max(port.from, all[j].from), name, all[j].service, all[j].where),
						Why: "The second one does not start, and compose up fails.", Mend: "Publish one of them elsewhere, or do not publish it: services reach each other without."})
				}
				all = append(all, port)
				if slices.ContainsFunc(private, func(w string) bool { return strings.Contains(s.Image+name, w) }) && (port.ip == "" || port.ip == "0.0.0.0") {
					found = append(found, Finding{Level: Warning, Where: where, What: name + " is published on every address of the machine", Why: "Docker's rules come before those of ufw: it can be reached from outside.",
						Mend: fmt.Sprintf("\"127.0.0.1:%d:...\", or do not publish it.", port.from)})
				}
			}
			found = append(found, environmentSecrets(path, name, &s.Environment)...)
		}
		return found
	})
}

// environmentSecrets reports secrets in a service's environment that
// documentation shows, also those that are there only for want of a variable.
func environmentSecrets(path, service string, env *yaml.Node) []Finding {
	var found []Finding
	look := func(key, value string, line int) {
		value = defaultOf.ReplaceAllString(value, "$1")
		if secretKey.MatchString(key) && isDefaultSecret(value) {
			found = append(found, Finding{Level: Failing, Where: at(path, line), What: key + " of " + service + " is a value from the documentation", Why: "Whoever has read it can sign in.",
				Mend: "Write a secret of your own into a file: secrets, or ${" + key + ":?}."})
		}
	}
	for i, n := range env.Content {
		switch env.Kind {
		case yaml.MappingNode:
			if i%2 == 1 {
				look(env.Content[i-1].Value, n.Value, n.Line)
			}
		case yaml.SequenceNode:
			key, value, _ := strings.Cut(n.Value, "=")
			look(key, value, n.Line)
		}
	}
	return found
}

// defaultOf matches a variable with what stands in for it where it is not set.
var defaultOf = regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*:?-([^}]*)\}`)

// readPort reads a port in either of compose's forms. The port is 0 where the
// host's is left to Docker, or to a variable.
func readPort(n *yaml.Node) (published, error) {
	p := published{proto: "tcp"}
	host := ""
	if n.Kind == yaml.MappingNode {
		var long struct {
			Published string `yaml:"published"`
			HostIP    string `yaml:"host_ip"`
			Protocol  string `yaml:"protocol"`
		}
		if err := n.Decode(&long); err != nil {
			return p, err
		}
		host, p.ip = long.Published, long.HostIP
		if long.Protocol != "" {
			p.proto = long.Protocol
		}
	} else {
		short, proto, ok := strings.Cut(defaultOf.ReplaceAllString(n.Value, "$1"), "/")
		if ok {
			p.proto = proto
		}
		i := strings.LastIndexByte(short, ':')
		if i < 0 {
			return p, nil // the container's port alone
		}
		host = short[:i]
		if i := strings.LastIndexByte(host, ':'); i >= 0 {
			p.ip, host = strings.Trim(host[:i], "[]"), host[i+1:]
		}
	}
	host = defaultOf.ReplaceAllString(host, "$1")
	if host == "" || strings.Contains(host, "$") {
		return p, nil
	}
	from, to, ok := strings.Cut(host, "-")
	if !ok {
		to = from
	}
	var err1, err2 error
	p.from, err1 = strconv.Atoi(from)
	p.to, err2 = strconv.Atoi(to)
	if err1 != nil || err2 != nil {
		return p, fmt.Errorf("the published port %q is not a number", host)
	}
	return p, nil
}
