// Renders a Helm chart with the template engine that Helm is made of, and those of Helm's functions that the chart uses.
//
//	go run render.go CHART < {"Values": …, "Release": {"Namespace": …}, "Chart": {"AppVersion": …}}
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

func toJSON(value any) (string, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return strings.TrimSuffix(out.String(), "\n"), err
}

func isEmpty(value any) bool {
	truth, _ := template.IsTrue(value)
	return !truth
}

func main() {
	chart := template.New("chart").Option("missingkey=error")
	chart.Funcs(template.FuncMap{
		"include": func(name string, data any) (string, error) {
			var out bytes.Buffer
			err := chart.ExecuteTemplate(&out, name, data)
			return out.String(), err
		},
		"nindent": func(width int, text string) string {
			pad := "\n" + strings.Repeat(" ", width)
			return pad + strings.ReplaceAll(text, "\n", pad)
		},
		"quote":  func(value any) string { return fmt.Sprintf("%q", fmt.Sprint(value)) },
		"toJson": toJSON,
		"default": func(otherwise, value any) any {
			if isEmpty(value) {
				return otherwise
			}
			return value
		},
		"dict": func(pairs ...any) map[string]any {
			made := map[string]any{}
			for at := 0; at+1 < len(pairs); at += 2 {
				made[fmt.Sprint(pairs[at])] = pairs[at+1]
			}
			return made
		},
		"deepCopy": func(value map[string]any) (map[string]any, error) {
			text, err := toJSON(value)
			copied := map[string]any{}
			if err == nil {
				err = json.Unmarshal([]byte(text), &copied)
			}
			return copied, err
		},
		// As in Helm, what is there already stays.
		"merge": func(into, from map[string]any) map[string]any {
			for key, value := range from {
				if _, there := into[key]; !there {
					into[key] = value
				}
			}
			return into
		},
	})
	if err := render(chart, filepath.Join(os.Args[1], "templates")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func render(chart *template.Template, directory string) error {
	var data map[string]any
	decoder := json.NewDecoder(os.Stdin)
	decoder.UseNumber()
	if err := decoder.Decode(&data); err != nil {
		return err
	}
	files, err := os.ReadDir(directory)
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(directory, file.Name()))
		if err != nil {
			return err
		}
		if _, err := chart.New(file.Name()).Parse(string(text)); err != nil {
			return err
		}
	}
	for _, file := range files {
		if strings.HasPrefix(file.Name(), "_") {
			continue
		}
		fmt.Println("---")
		if err := chart.ExecuteTemplate(os.Stdout, file.Name(), data); err != nil {
			return err
		}
		fmt.Println()
	}
	return nil
}
