package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

const frameRowsHead = "t,caller,reply,seq,late_ms\n"

// frameFiles hold the lateness of every single frame, for those who want to draw it.
type frameFiles struct {
	mu    sync.Mutex
	files map[string]*frameFile
}

type frameFile struct {
	mu   sync.Mutex
	file *os.File
	out  *bufio.Writer
	row  []byte
}

// writer returns what takes the rows of a caller. A file that cannot be written is said once, on stderr.
func (f *frameFiles) writer(path string, caller int64) func(reply int, a arrival, late time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file, ok := f.files[path]
	if !ok {
		file = openFrameFile(path)
		f.files[path] = file
	}
	if file == nil {
		return func(int, arrival, time.Duration) {}
	}
	return func(reply int, a arrival, late time.Duration) { file.write(caller, reply, a, late) }
}

func openFrameFile(path string) *frameFile {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, "parley-caller: frames are not recorded:", err)
		return nil
	}
	opened := &frameFile{file: file, out: bufio.NewWriterSize(file, 256*1024)}
	if at, err := file.Seek(0, 2); err == nil && at == 0 {
		opened.out.WriteString(frameRowsHead)
	}
	return opened
}

func (f *frameFile) write(caller int64, reply int, a arrival, late time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := strconv.AppendFloat(f.row[:0], unixSeconds(a.at), 'f', 4, 64)
	b = strconv.AppendInt(append(b, ','), caller, 10)
	b = strconv.AppendInt(append(b, ','), int64(reply), 10)
	b = strconv.AppendInt(append(b, ','), a.seq, 10)
	b = strconv.AppendFloat(append(b, ','), inMs(late), 'f', 3, 64)
	f.row = append(b, '\n')
	f.out.Write(f.row)
}

func (f *frameFiles) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, file := range f.files {
		if file != nil {
			file.mu.Lock()
			file.out.Flush()
			file.mu.Unlock()
		}
	}
}

func (f *frameFiles) close() {
	f.flush()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, file := range f.files {
		if file != nil {
			file.mu.Lock()
			file.file.Close() // a row that comes now is lost with the caller that was cut
			file.mu.Unlock()
		}
	}
}
