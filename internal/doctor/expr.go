// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// node is a part of an expression as Prometheus itself parses it
// (/api/v1/parse_query).
type node struct {
	Type string `json:"type"`
	Op   string `json:"op"`
	Val  string `json:"val"`
	LHS  *node  `json:"lhs"`
	RHS  *node  `json:"rhs"`
	Expr *node  `json:"expr"`
	Args []node `json:"args"`
	Func struct {
		Name       string `json:"name"`
		ReturnType string `json:"returnType"`
	} `json:"func"`
	Name     string `json:"name"`
	Matchers []struct {
		Name  string `json:"name"`
		Type  string `json:"type"`
		Value string `json:"value"`
	} `json:"matchers"`
	// Range and Offset are in milliseconds.
	Range  int64 `json:"range"`
	Offset int64 `json:"offset"`
}

// selector writes a vector or matrix selector as PromQL, without its range.
func (n *node) selector() string {
	parts := make([]string, len(n.Matchers))
	for i, m := range n.Matchers {
		parts[i] = strconv.Quote(m.Name) + m.Type + strconv.Quote(m.Value)
	}
	slices.Sort(parts)
	return "{" + strings.Join(parts, ",") + "}"
}

// title is what people call a selector: the metric, and what it wants of the
// labels besides where it comes from.
func (n *node) title() string {
	if n.Name == "" {
		return n.selector()
	}
	var parts []string
	for _, m := range n.Matchers {
		if m.Name != "__name__" && m.Name != "job" {
			parts = append(parts, m.Name+m.Type+strconv.Quote(m.Value))
		}
	}
	if len(parts) == 0 {
		return n.Name
	}
	return n.Name + "{" + strings.Join(parts, ",") + "}"
}

// children are the parts of an expression that it is made of.
func (n *node) children() []*node {
	var all []*node
	for _, c := range []*node{n.LHS, n.RHS, n.Expr} {
		if c != nil {
			all = append(all, c)
		}
	}
	for i := range n.Args {
		all = append(all, &n.Args[i])
	}
	return all
}

// walk calls f for n and everything below.
func (n *node) walk(f func(*node)) {
	f(n)
	for _, c := range n.children() {
		c.walk(f)
	}
}

// window returns how far back the expression looks.
func (n *node) window() time.Duration {
	longest := time.Duration(0)
	for _, c := range n.children() {
		longest = max(longest, c.window())
	}
	switch n.Type {
	case "vectorSelector", "matrixSelector", "subquery":
		longest += time.Duration(n.Range+n.Offset) * time.Millisecond
	}
	return longest
}

// numbers returns the numbers that something is compared with.
func (n *node) numbers() []float64 {
	var all []float64
	n.walk(func(c *node) {
		if c.Type != "binaryExpr" || !slices.Contains([]string{">", "<", ">=", "<="}, c.Op) {
			return
		}
		for _, side := range []*node{c.LHS, c.RHS} {
			if v, ok := side.number(); ok {
				all = append(all, v)
			}
		}
	})
	return all
}

// number returns the value of a literal.
func (n *node) number() (float64, bool) {
	switch n.Type {
	case "numberLiteral":
		v, err := strconv.ParseFloat(n.Val, 64)
		return v, err == nil
	case "parenExpr":
		return n.Expr.number()
	}
	return 0, false
}

// can reports whether an expression could have a result with the data that
// there is now, whatever the values are, and the selectors that it is missing.
// has reports whether there is data for a selector over a range.
func (n *node) can(ctx context.Context, has func(ctx context.Context, selector string, back time.Duration) (bool, error)) (bool, []*node, error) {
	switch n.Type {
	case "numberLiteral", "stringLiteral":
		return true, nil, nil
	case "vectorSelector", "matrixSelector":
		ok, err := has(ctx, n.selector(), time.Duration(n.Range)*time.Millisecond)
		if err != nil || ok {
			return ok, nil, err
		}
		return false, []*node{n}, nil
	case "call":
		if strings.HasPrefix(n.Func.Name, "absent") || n.Func.ReturnType == "scalar" || n.Func.Name == "vector" || n.Func.Name == "scalar" {
			return true, nil, nil // these have a result without data
		}
	case "binaryExpr":
		left, missingLeft, err := n.LHS.can(ctx, has)
		if err != nil || n.Op == "unless" {
			return left, missingLeft, err
		}
		right, missingRight, err := n.RHS.can(ctx, has)
		missing := slices.Concat(missingLeft, missingRight)
		if n.Op == "or" {
			if left || right {
				missing = nil
			}
			return left || right, missing, err
		}
		return left && right, missing, err
	}
	all := true
	var missing []*node
	for _, c := range n.children() {
		ok, m, err := c.can(ctx, has)
		if err != nil {
			return false, nil, err
		}
		all = all && ok
		missing = append(missing, m...)
	}
	return all, missing, nil
}

// hasData returns a function that asks Prometheus whether there is data for a
// selector, once for each.
func (p *patient) hasData() func(context.Context, string, time.Duration) (bool, error) {
	known := map[string]bool{}
	return func(ctx context.Context, selector string, back time.Duration) (bool, error) {
		expr := "count(" + selector + ")"
		if back > 0 {
			expr = fmt.Sprintf("count(present_over_time(%s[%dms]))", selector, back.Milliseconds())
		}
		if ok, asked := known[expr]; asked {
			return ok, nil
		}
		v, err := p.prom.Vector(ctx, expr, p.Now)
		if err != nil {
			return false, err
		}
		known[expr] = len(v) > 0
		return known[expr], nil
	}
}
