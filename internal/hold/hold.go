//go:build hold

package hold

import (
	_ "github.com/alecthomas/kingpin/v2"
	_ "github.com/alicebob/miniredis/v2"
	_ "github.com/go-kit/log"
	_ "github.com/go-kit/log/level"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/jackc/pgx/v5/pgproto3"
	_ "github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/klauspost/compress/zstd"
	_ "github.com/prometheus/client_golang/prometheus/collectors"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/prometheus/client_golang/prometheus/promhttp/zstd"
	_ "github.com/prometheus/client_golang/prometheus/testutil"
	_ "github.com/prometheus/client_golang/prometheus/testutil/promlint"
	_ "github.com/prometheus/common/config"
	_ "github.com/prometheus/common/expfmt"
	_ "github.com/prometheus/common/version"
	_ "github.com/prometheus/exporter-toolkit/web"
	_ "github.com/prometheus/exporter-toolkit/web/kingpinflag"
	_ "github.com/prometheus/procfs"
	_ "github.com/prometheus/procfs/blockdevice"
	_ "github.com/prometheus/procfs/sysfs"
	_ "github.com/redis/go-redis/v9"
	_ "github.com/redis/go-redis/v9/maintnotifications"
	_ "go.uber.org/goleak"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
)
