// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Command generate writes the dashboards, rules and configurations from the
// jsonnet. Run it in the mixin's directory, or with make generate.
package main

import (
	"fmt"
	"os"

	"github.com/niodoo/niodoo_exporter/mixin"
)

func main() {
	if err := mixin.Write(".."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
