// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// redisServer starts a real redis-server that ends with the test.
func redisServer(t testing.TB, opts localserver.RedisOptions) *localserver.Redis {
	t.Helper()
	r, err := localserver.StartRedis(context.Background(), opts)
	if errors.Is(err, localserver.ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return r
}

func redisSection(address, more string) string {
	return fmt.Sprintf("{address: %q%s}", address, more)
}

func TestRedisX(t *testing.T) {
	r := redisServer(t, localserver.RedisOptions{})
	s := scraper(t, only(t, "redis", redisSection(r.Addr, "")))
	scrape(t, s)
	t.Log(text(scrape(t, s).Families))
}
